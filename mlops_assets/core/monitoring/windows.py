"""The calendar of a model's monitoring windows: hours, days or weeks of event time, each with its key.

Keys are those of the Dagster partitions of the same calendar.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from mlops_assets.core.spec import ModelSpec

WindowSize = Literal["hour", "day", "week"]
_FORMAT: dict[WindowSize, str] = {"hour": "%Y-%m-%d-%H:%M", "day": "%Y-%m-%d", "week": "%Y-%m-%d"}
_LENGTH = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}


@dataclass(frozen=True)
class Windows:
    """Consecutive windows from the one that holds `start` on. Days and weeks begin at midnight in `timezone`, weeks on Monday."""

    size: WindowSize
    timezone: str
    start: datetime
    until: datetime | None = None

    @classmethod
    def of(cls, spec: ModelSpec) -> "Windows":
        rules = spec.monitoring
        return cls(rules.window, rules.timezone, spec.live_from, rules.until)

    @property
    def first(self) -> str:
        """The key of the first window."""
        return self.key(self.start)

    @property
    def format(self) -> str:
        """`strftime` form of the keys, which hold local time."""
        return _FORMAT[self.size]

    def key(self, moment: datetime) -> str:
        """The key of the window that holds a moment."""
        return self._floor(moment.astimezone(self._zone).replace(tzinfo=None)).strftime(self.format)

    def keys(self, times: "pd.Series[pd.Timestamp]") -> "pd.Series[str]":
        """The keys of many moments, shape (n,)."""
        local = times.dt.tz_convert(self.timezone).dt.tz_localize(None)
        floored = local.dt.floor("h" if self.size == "hour" else "D")
        if self.size == "week":
            floored = floored - pd.to_timedelta(floored.dt.weekday, unit="D")
        codes, starts = pd.factorize(floored)
        names = np.array([*pd.DatetimeIndex(starts).strftime(self.format), ""], dtype=object)
        return pd.Series(names[codes], index=times.index, name="window", dtype=object)

    def bounds(self, key: str) -> tuple[datetime, datetime]:
        """Begin and end, exclusive, of a window in UTC. ValueError for what is no key of this calendar."""
        local = self._local(key)
        return self._aware(local), self._aware(local + _LENGTH[self.size])

    def shift(self, key: str, steps: int) -> str:
        """The key so many windows later, or earlier."""
        return (self._local(key) + steps * _LENGTH[self.size]).strftime(self.format)

    def last(self, key: str, count: int) -> tuple[str, ...]:
        """The last `count` windows that end with this one, oldest first, none before the first."""
        return tuple(one for step in range(count - 1, -1, -1) if (one := self.shift(key, -step)) >= self.first)

    def between(self, first: str, last: str) -> Iterator[str]:
        """All keys from `first` to `last`, both included."""
        while first <= last:
            yield first
            first = self.shift(first, 1)

    def holds(self, key: str) -> bool:
        """Does the calendar have this window: not before the first, and not after the end of a finished history?"""
        return key >= self.first and (self.until is None or self.bounds(key)[0] < self.until)

    @property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def _floor(self, local: datetime) -> datetime:
        if self.size == "hour":
            return local.replace(minute=0, second=0, microsecond=0)
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=midnight.weekday()) if self.size == "week" else midnight

    def _local(self, key: str) -> datetime:
        try:
            local = datetime.strptime(key, self.format)  # noqa: DTZ007 - the zone is the calendar's
        except ValueError as error:
            raise ValueError(f"{key!r} is no window: write a {self.size} such as {self.first!r}") from error
        if self._floor(local) != local:
            raise ValueError(f"{key!r} begins no {self.size}: write {self._floor(local).strftime(self.format)!r}")
        return local

    def _aware(self, local: datetime) -> datetime:
        return local.replace(tzinfo=self._zone).astimezone(UTC)
