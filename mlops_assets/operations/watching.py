"""The monitor's own state: what is due, what it last said of itself, and whether it is alive. The rules are those of `core`."""

from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

from mlops_assets.core.monitoring.requests import PastRun, Plan, plan_requests
from mlops_assets.core.monitoring.watch import Heartbeat, Sign, watch
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.ingestion import unread_since
from mlops_assets.operations.live_traffic import ingest, live_windows, stale_windows
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.traffic import TrafficStore

HEARTBEAT = "monitor/heartbeat"
INGEST_BUDGET_S = 20.0


class Tick:
    """One look at a model's traffic; however it ends, a heartbeat says so.

    Use as a context manager around everything that the look does.
    """

    def __init__(self, spec: ModelSpec, stores: Stores, clock: Callable[[], datetime]):
        self._spec, self._stores, self._clock = spec, stores, clock
        self._plan = Plan((), ())

    def look(self, past: Sequence[PastRun], budget_s: float = INGEST_BUDGET_S) -> Plan:
        """Take in what is new, and say what is due after how earlier runs ended (newest first)."""
        ingest(self._stores, [self._spec], budget_s=budget_s)
        stale = stale_windows(self._spec, self._stores)
        contents = TrafficStore(self._stores.lake, self._spec.name).contents()
        should_be = {window: one.content for window, one in contents.items()}
        self._plan = plan_requests(Windows.of(self._spec), stale, should_be, past)
        return self._plan

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        now = self._clock()
        before = read_heartbeat(self._spec, self._stores) or Heartbeat(now)
        if error is not None:
            told = f"{type(error).__name__}: {error}"[:1000]
            beat = Heartbeat(now, told, before.waiting, before.given_up, before.newest)
        else:
            calendar = Windows.of(self._spec)
            due = [one for request in self._plan.due for one in calendar.between(request.first, request.last)]
            lost = [one for request in self._plan.given_up for one in calendar.between(request.first, request.last)]
            windows = live_windows(self._spec, self._stores)
            beat = before.after(now, due, lost, max(windows, default=None))
        self._stores.lake.write_document(self._spec.name, HEARTBEAT, beat)


def read_heartbeat(spec: ModelSpec, stores: Stores) -> Heartbeat | None:
    """What the monitor last said of itself; None when it has never looked."""
    if not stores.lake.has(spec.name, HEARTBEAT):
        return None
    beat: Heartbeat = stores.lake.read_document(spec.name, HEARTBEAT, Heartbeat)
    return beat


def watch_monitor(spec: ModelSpec, stores: Stores, now: datetime) -> tuple[Sign, ...]:
    """The signs that a model's monitor does not do its work, or has nothing to do it with; none when all is well."""
    windows = tuple(live_windows(spec, stores).values())
    return watch(spec, read_heartbeat(spec, stores), windows, now, unread_since(spec, stores))


def something_waits(spec: ModelSpec, stores: Stores) -> bool:
    """Is there anything that the monitor has not looked at?"""
    return unread_since(spec, stores) is not None or bool(stale_windows(spec, stores))
