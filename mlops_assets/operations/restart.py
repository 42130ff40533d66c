"""Having a running server replace its workers, for new code, and waiting for how it ends.

The server does it (`serving/rolling.py`); here it is asked to, through the home that both know.
"""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

from mlops_assets.stores.home import Home
from mlops_assets.stores.servers import (
    DRAIN_SECONDS,
    READY_SECONDS,
    Replacement,
    RestartOrder,
    RestartReport,
    RestartUnderWay,
    ServerState,
    ServerStore,
)

TAKE_UP_SECONDS = 10.0
_LOOK_SECONDS = 0.1


class RestartFailed(RuntimeError):
    """Workers were not replaced; those that were not go on serving."""


def restart_workers(
    home: Home,
    *,
    server: str | None = None,
    ready_seconds: float = READY_SECONDS,
    drain_seconds: float = DRAIN_SECONDS,
    tell: Callable[[Replacement], None] = lambda _one: None,
) -> RestartReport:
    """Replace the workers of a server on this home one by one, without a dropped request.

    Parameters
    ----------
    server
        Its name; it can be left out where one server runs on the home.
    ready_seconds, drain_seconds
        As in `RestartOrder`.
    tell
        Called with each worker that has been replaced, as soon as it has.

    Raises
    ------
    RestartUnderWay
        When one is under way already.
    RestartFailed
        When no server runs, a new worker does not become ready in time, or the server ends meanwhile.
    """
    store = ServerStore(home)
    name = _chosen(store, home, server).server
    order = RestartOrder(os.urandom(16).hex(), datetime.now(UTC), ready_seconds, drain_seconds)
    try:
        store.order(name, order)
        # Asked first and looked at then: a server that begins says so before it takes the next order.
        _require_idle(store.get(name), order)
        return _follow(store, name, order, tell)
    finally:
        store.settle_order(name, order.id)


def _chosen(store: ServerStore, home: Home, server: str | None) -> ServerState:
    live = {state.server: state for state in store.live(datetime.now(UTC))}
    if server is not None and server not in live:
        raise RestartFailed(f"no server {server!r} runs on {home.root}: there are {', '.join(live) or 'none'}")
    if not live:
        raise RestartFailed(
            f"no server runs on {home.root}: start one with `mlops-assets serve` or `up`, "
            "or set MLOPS_HOME to the home of the one that is meant"
        )
    if server is None and len(live) > 1:
        names = ", ".join(f"{name} ({state.url})" for name, state in live.items())
        raise RestartFailed(f"{len(live)} servers run on {home.root}: choose one with --server, of {names}")
    return live[server] if server is not None else next(iter(live.values()))


def _require_idle(state: ServerState | None, order: RestartOrder) -> None:
    restart = None if state is None else state.restart
    if state is not None and restart is not None and restart.ended_at is None and restart.order != order.id:
        done = f"{len(restart.replaced)} of {restart.workers} workers have been replaced"
        raise RestartUnderWay(
            f"{state.server} is being restarted since {restart.began_at:%H:%M:%SZ}, {done}: wait until it has ended"
        )


def _follow(store: ServerStore, name: str, order: RestartOrder, tell: Callable[[Replacement], None]) -> RestartReport:
    take_up_until = time.monotonic() + TAKE_UP_SECONDS
    told = 0
    while True:
        live = {state.server: state for state in store.live(datetime.now(UTC))}
        if name not in live:
            raise RestartFailed(f"{name} has ended meanwhile: its output says why")
        report = live[name].restart
        if report is not None and report.order == order.id:
            for one in report.replaced[told:]:
                tell(one)
            told = len(report.replaced)
            if report.failure is not None:
                raise RestartFailed(_failure(report))
            if report.ended_at is not None:
                return report
        elif time.monotonic() >= take_up_until:
            raise RestartFailed(f"{name} has not begun within {TAKE_UP_SECONDS:g} s: its output may say why")
        time.sleep(_LOOK_SECONDS)


def _failure(report: RestartReport) -> str:
    left = report.workers - len(report.replaced) - len(report.died)
    workers = "1 worker goes" if left == 1 else f"{left} workers go"
    return f"{workers} on serving with the code from before: {report.failure}"
