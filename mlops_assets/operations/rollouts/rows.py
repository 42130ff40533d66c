"""The logged rows that a trial goes by, with their labels, and its clock.

What they prove is the business of `evidence.py`.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.core.live_traffic import LABEL, LiveWindow, combine, window_table
from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.ingestion import TABLES
from mlops_assets.operations.live_traffic import live_windows, read_window
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.traffic import TrafficStore

_CLOCKS_DIFFER = timedelta(hours=1)  # between hosts, at most


class TrialRows:
    """All logged rows since a trial began, with their labels, also those of windows that are not over yet.

    Parameters
    ----------
    since
        The plan that began the trial.

    Attributes
    ----------
    frame
        None where there are none.
    before
        The newest event time that was asked for under an earlier plan; None where nothing was.
    """

    def __init__(self, spec: ModelSpec, stores: Stores, since: ReleasePlan) -> None:
        self._spec, self._stores = spec, stores
        self._traffic = TrafficStore(stores.lake, spec.name)
        self.windows: list[str] = []
        frames, before = [], []
        live = live_windows(spec, stores)
        for window, content in sorted(self._traffic.contents().items()):
            made = live.get(window)
            if not content.predictions:
                continue
            is_made = made is not None and made.content == content.content
            if made is not None and is_made and _is_over(made, since):
                before.append(_newest_of(made))
                continue
            kept = self._kept(window, content.content, since.release, is_made=is_made)
            before.append(kept.before)
            if len(kept.rows):
                frames.append(kept.rows)
                self.windows.append(window)
        self.frame = pd.concat(frames, ignore_index=True) if frames else None
        self.before = max((one for one in before if one is not None), default=None)

    def metric(self, name: str) -> pa.Table:
        """What was fed back under a name, in precedence: the last of several counts."""
        traffic = self._traffic
        parts = [
            traffic.read_part("metrics", window, part)
            for window in self.windows
            for part in traffic.parts("metrics", window)
        ]
        known = combine(parts, LABEL)
        known = known.filter(pc.and_(pc.equal(known["name"], name), pc.is_valid(known["number"])))
        return known.sort_by([(column, "ascending") for column in ("revision", "received_at", "number")])

    def waited_s(self, at: "pd.Series[bool]") -> float:
        """Seconds of event time since the first of these rows was served, which belong to the newest plans of the trial.

        What is asked about the past (late, or replayed) moves no clock: the time begins with the first row served that is not
        older than all that was asked for before these plans. Nor does what is asked about the future.
        """
        if self.frame is None or not at.any():
            return 0.0
        known = _in_time(self.frame)
        earlier = known["event_time"][known["release"] < self.frame["release"][at].min()]
        past = [one for one in (self.before, earlier.max() if len(earlier) else None) if one is not None]
        begun = known[at.reindex(known.index)]
        if past:
            begun = begun[begun["event_time"] >= max(past)]
        if begun.empty:
            return 0.0
        first = begun.sort_values(["served_at", "event_time"]).iloc[0]["event_time"]
        return max(float((known["event_time"].max() - first).total_seconds()), 0.0)

    def _kept(self, window: str, content: str, since: int, *, is_made: bool) -> "_Kept":
        tables = self._stores.lake.table_path(self._spec.name, TABLES)
        for old in [one for one in _cache if one[0] == tables and one[2] != since]:
            del _cache[old]
        key = (tables, window, since)
        if key not in _cache or _cache[key].content != content:
            rows, others = self._made(window, since) if is_made else self._unmade(window, since)
            times = _in_time(others)["event_time"]
            before = times.max().to_pydatetime() if len(times) else None
            _cache[key] = _Kept(content, rows.reset_index(drop=True), before)
        return _cache[key]

    def _made(self, window: str, since: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The rows of a window since a plan, and those before it."""
        rows = read_window(self._spec, self._stores, window)
        mine = rows["release"] >= since
        return rows[mine], rows[~mine]

    def _unmade(self, window: str, since: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The same of a window whose table does not hold all of them yet."""
        read, parts = self._traffic.read_part, self._traffic.parts
        asked = combine([read("predictions", window, part) for part in parts("predictions", window)])
        mine = pc.greater_equal(asked["release"], since)
        truths = combine([read("labels", window, part) for part in parts("labels", window)], LABEL)
        rows: pd.DataFrame = window_table(self._spec, asked.filter(mine), truths).to_pandas()
        return rows, asked.filter(pc.invert(mine)).select(["event_time", "served_at", "status"]).to_pandas()


def stamp_of(spec: ModelSpec, stores: Stores) -> str:
    """A text that is another one once there is new traffic or feedback, or another plan."""
    traffic = TrafficStore(stores.lake, spec.name)
    contents = traffic.contents()
    plan = stores.releases.current(spec.name)
    told = len(spec.release.metrics) and sum(len(traffic.parts("metrics", window)) for window in contents)
    return f"{0 if plan is None else plan.release} {told} {hash(tuple(contents.items()))}"


class _Kept(NamedTuple):
    """A window's rows since a plan, and the newest event time of those before it."""

    content: str
    rows: pd.DataFrame
    before: datetime | None


_cache: dict[
    tuple[str, str, int], _Kept
] = {}  # rows of a window are read anew only when it has changed: a trial looks every few seconds


def _is_over(window: LiveWindow, since: ReleasePlan) -> bool:
    """Whether all of a window was served before a plan was made."""
    return window.last_served_at is not None and window.last_served_at < since.decided_at - _CLOCKS_DIFFER


def _newest_of(window: LiveWindow) -> datetime | None:
    if window.last_event_at is None or window.last_served_at is None:
        return None
    return min(window.last_event_at, window.last_served_at + _CLOCKS_DIFFER)


def _in_time(rows: pd.DataFrame) -> pd.DataFrame:
    """The answered ones, dated no later than when they were served. What was not answered has no event time of its own."""
    answered = rows[rows["status"] == 200]
    return answered.assign(event_time=answered["event_time"].clip(upper=answered["served_at"] + _CLOCKS_DIFFER))
