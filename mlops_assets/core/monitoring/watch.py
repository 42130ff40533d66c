"""Is the monitor itself alive? What it last said of itself, beside what waits for it. Reading and reporting are done elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from mlops_assets.core.live_traffic import LiveWindow
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.spec import ModelSpec, format_duration

MONITOR_IS_ALIVE = "monitor_is_alive"
LOOKS_EVERY = timedelta(seconds=10)
MAX_SILENCE = timedelta(minutes=5)
MAX_WAIT = timedelta(hours=2)
QUIET_WINDOWS = 3
LABELLED_WINDOWS = 3

Trouble = Literal["stopped", "failing", "never looked", "given up", "waiting", "labels", "traffic"]
STOPPED: frozenset[Trouble] = frozenset({"stopped", "failing"})
GRAVE: frozenset[Trouble] = STOPPED | {"given up"}


class Heartbeat(msgspec.Struct, frozen=True):
    """What the monitor wrote down when it last looked.

    `waiting` holds the windows that are to be looked at, and since when they wait; `given_up` those whose runs have failed too
    often. `error` is why the last look failed; then the rest is what the look before it saw.
    """

    at: datetime
    error: str | None = None
    waiting: Mapping[str, datetime] = {}
    given_up: tuple[str, ...] = ()
    newest: str | None = None

    def after(self, now: datetime, due: Sequence[str], given_up: Sequence[str], newest: str | None) -> "Heartbeat":
        """The next one, in which windows that go on waiting do so since they began."""
        waiting = {window: self.waiting.get(window, now) for window in due}
        return Heartbeat(now, None, waiting, tuple(given_up), newest)


@dataclass(frozen=True)
class Sign:
    """One thing that shows that the monitor does not do its work, or has nothing to do it with."""

    trouble: Trouble
    reason: str

    @property
    def grave(self) -> bool:
        return self.trouble in GRAVE


def watch(
    spec: ModelSpec,
    heartbeat: Heartbeat | None,
    windows: Sequence[LiveWindow],
    now: datetime,
    unread_since: datetime | None = None,
) -> tuple[Sign, ...]:
    """The signs that something is wrong with the monitor or with what feeds it; none when all is well.

    Parameters
    ----------
    windows
        What is said of each window's table, oldest first.
    unread_since
        Since when the oldest part of the log waits that nobody has read; None when there is none.
    """
    signs = [
        *_of_monitor(heartbeat, now, unread_since),
        *_of_work(heartbeat, now),
        *_of_labels(spec, windows),
        *_of_traffic(spec, windows, now),
    ]
    return tuple(signs)


def told(signs: Sequence[Sign]) -> str:
    """The signs in words."""
    return "; ".join(sign.reason for sign in signs) or "the monitor looks at what comes in"


def _of_monitor(heartbeat: Heartbeat | None, now: datetime, unread_since: datetime | None) -> list[Sign]:
    if heartbeat is None:
        if unread_since is None or now - unread_since <= MAX_SILENCE:
            return []
        return [Sign("never looked", f"the monitor has never looked, and traffic waits since {_time(unread_since)}")]
    if now - heartbeat.at > MAX_SILENCE:
        return [Sign("stopped", f"the monitor last looked at {_time(heartbeat.at)}: is its sensor on, and the daemon?")]
    if heartbeat.error is not None:
        return [Sign("failing", f"the monitor fails: {heartbeat.error}")]
    return []


def _of_work(heartbeat: Heartbeat | None, now: datetime) -> list[Sign]:
    if heartbeat is None:
        return []
    signs = []
    if heartbeat.given_up:
        signs.append(Sign("given up", f"runs failed too often for {_some(heartbeat.given_up)}: see their logs"))
    long = [
        window
        for window, since in sorted(heartbeat.waiting.items())
        if now - since > MAX_WAIT and window not in heartbeat.given_up
    ]
    if long:
        since = min(heartbeat.waiting[window] for window in long)
        signs.append(Sign("waiting", f"{_some(long)} wait to be looked at since {_time(since)}"))
    return signs


def _of_labels(spec: ModelSpec, windows: Sequence[LiveWindow]) -> list[Sign]:
    """Labels that should be there: of windows that ended a label delay and one window ago by the events' own clock."""
    calendar = Windows.of(spec)
    newest = max((one.last_event_at for one in windows if one.last_event_at is not None), default=None)
    if newest is None:
        return []
    matured = [
        one
        for one in windows
        if one.answered and calendar.bounds(calendar.shift(one.window, 1))[1] + spec.label.delay <= newest
    ][-LABELLED_WINDOWS:]
    answered, labelled = sum(one.answered for one in matured), sum(one.labelled for one in matured)
    if not answered or labelled / answered >= spec.monitoring.min_coverage:
        return []
    where = f"{matured[0].window} to {matured[-1].window}"
    reason = (
        f"labels dry up: {labelled} of {answered} answers from {where} have one, {labelled / answered:.0%} instead of "
        f"{spec.monitoring.min_coverage:.0%} or more, though they should be known after {format_duration(spec.label.delay)}"
    )
    return [Sign("labels", reason)]


def _of_traffic(spec: ModelSpec, windows: Sequence[LiveWindow], now: datetime) -> list[Sign]:
    served = max((one.last_served_at for one in windows if one.last_served_at is not None), default=None)
    if spec.monitoring.until is not None or served is None:
        return []
    calendar = Windows.of(spec)
    begin, end = calendar.bounds(calendar.first)
    if now - served <= QUIET_WINDOWS * (end - begin):
        return []
    return [Sign("traffic", f"no request has come since {_time(served)}, more than {QUIET_WINDOWS} windows ago")]


def _some(windows: Sequence[str]) -> str:
    return windows[0] if len(windows) == 1 else f"{len(windows)} windows ({windows[0]} to {windows[-1]})"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%SZ}"
