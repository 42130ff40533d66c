"""The restart of a server's workers one by one, so that new code comes into service without a dropped request.

Runs in the process that starts the workers, on the event loop of BentoML's arbiter; `draining.py` is the workers' part. A new
worker is kept from the arbiter's sight until it is ready, and an old one from then on: so the arbiter has the workers that it is
to have at every moment, and starts and ends none by itself on account of a restart.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import msgspec
import psutil
from bentoml._internal.utils.circus import Arbiter
from circus.process import Process  # type: ignore[import-untyped]
from circus.watcher import Watcher  # type: ignore[import-untyped]
from prometheus_client.multiprocess import mark_process_dead

from mlops_assets.serving.draining import CANDIDATE_VARIABLE, DRAIN_SIGNAL
from mlops_assets.stores.home import Home
from mlops_assets.stores.servers import Replacement, RestartOrder, RestartReport, ServerStore, server_name
from mlops_assets.stores.workers import LoadedRelease, WorkerError, WorkerState, WorkerStore

logger = logging.getLogger("bentoml.mlops_assets.rolling")

WATCHER = "service"
# A worker that has been told to leave is killed so long after uvicorn should have given its requests up.
KILL_SECONDS = 5.0
_BETWEEN_SIGNALS_SECONDS = 1.0
_LOOK_SECONDS = 0.1
_ANY_AGE = timedelta(days=1)
_PLACES = ("challenger", "standby", "last_good", "fallback")


class NotReplaced(RuntimeError):
    """A new worker did not become ready, or the server is ending."""


class Lack(msgspec.Struct, frozen=True):
    """What a new worker would not answer that another does; `refused` where to wait longer is of no use."""

    what: str
    refused: bool = False


_FAILURES = (NotReplaced, WorkerError, OSError)


class RollingRestart:
    """Replaces the workers of an arbiter when it is told to.

    Parameters
    ----------
    server
        The name under which the workers note that they accept requests.
    grace_seconds
        What uvicorn gives requests under way once a worker has no other connections left.
    """

    def __init__(self, arbiter: Arbiter, home: Home, server: str, grace_seconds: float):
        self.report: RestartReport | None = None
        self._arbiter = arbiter
        self._servers = ServerStore(home)
        self._workers = WorkerStore(home.workers)
        self._server = server
        self._grace_seconds = grace_seconds
        self._loose: list[Process] = []

    @property
    def is_under_way(self) -> bool:
        return self.report is not None and self.report.ended_at is None

    def begin(self, order: RestartOrder) -> None:
        """Carry an order out on the arbiter's loop, to be called from another thread. `report` says how it goes."""
        self.report = RestartReport(order.id, datetime.now(UTC), len(self._watcher.processes))
        self._arbiter.loop.add_callback(self._run, order)

    def end_loose(self) -> None:
        """End the processes that the arbiter does not know of. To be called when it has stopped."""
        for process in self._loose:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + self._grace_seconds
        while any(process.is_alive() for process in self._loose) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        for process in self._loose:
            _signal(process, signal.SIGKILL)

    async def _run(self, order: RestartOrder) -> None:
        failure: str | None = "the server met a fault in it, which its output tells"
        try:
            for process in list(self._watcher.processes.values()):
                await self._replace(process, order)
            failure = None
        except _FAILURES as error:
            failure = str(error)
            logger.error("The workers that are left go on serving with the code they have: %s", error)
        finally:
            self._tell(ended_at=datetime.now(UTC), failure=failure)

    async def _replace(self, old: Process, order: RestartOrder) -> None:
        processes: dict[int, Process] = self._watcher.processes
        if old.pid not in processes:
            self._note_death(old)
            return
        started = time.monotonic()
        new = self._start()
        try:
            before = set(processes)
            await self._until_ready(new, started + order.ready_seconds, order.ready_seconds)
            self._require_running()
        except _FAILURES:
            # It may have begun to take requests in the moment in which it was given up.
            await self._let_go(new, order.drain_seconds)
            raise
        ready = time.monotonic()
        # Where it has died meanwhile the arbiter has started another, or is about to: that one is not needed any more.
        leaving = next((one for pid, one in processes.items() if pid not in before), None)
        if replaces := old.pid in processes and old.is_alive():
            leaving = old
        else:
            self._note_death(old)
            processes.pop(old.pid, None)
        self._loose.remove(new)
        processes[new.pid] = new
        killed = False
        if leaving is not None:
            processes.pop(leaving.pid, None)
            killed = await self._let_go(leaving, order.drain_seconds)
        if replaces:
            one = Replacement(old.pid, new.pid, ready - started, time.monotonic() - ready, killed)
            logger.info("Worker %d has taken the place of worker %d", new.pid, old.pid)
            assert self.report is not None
            self._tell(replaced=(*self.report.replaced, one))

    def _start(self) -> Process:
        """Start a worker as the arbiter does, and take it out of the arbiter's sight."""
        self._require_running()
        watcher = self._watcher
        before = set(watcher.processes)
        watcher.env[CANDIDATE_VARIABLE] = "1"
        try:
            watcher.spawn_process()
        finally:
            del watcher.env[CANDIDATE_VARIABLE]
        found = [pid for pid in watcher.processes if pid not in before]
        if not found:
            raise NotReplaced("the server could not start another process, as its output tells")
        new = watcher.processes.pop(found[0])
        self._loose.append(new)
        # Of an earlier process with this id, which was killed.
        self._servers.forget_worker(self._server, new.pid)
        return new

    async def _until_ready(self, new: Process, deadline: float, seconds: float) -> None:
        """Wait until the new worker has loaded what the others have, and takes requests. Raises `NotReplaced`."""
        where = f"process {new.pid} in the server's output"
        while True:
            self._require_running()
            if not new.is_alive():
                raise NotReplaced(f"the new worker ended before it was ready: see {where}")
            if self._servers.is_accepting(self._server, new.pid):
                return
            lack = self._lacking(new)
            if lack is None:
                self._servers.want(self._server, new.pid)
                lack = Lack("it does not accept requests")
            if lack.refused:
                raise NotReplaced(f"the new worker was ended, since it refuses {lack.what}: see {where}")
            if time.monotonic() >= deadline:
                raise NotReplaced(f"the new worker was ended, not ready within {seconds:g} s: {lack.what}: see {where}")
            await asyncio.sleep(_LOOK_SECONDS)

    def _lacking(self, new: Process) -> Lack | None:
        mine = {*self._watcher.processes, new.pid}
        live = {state.pid: state for state in self._live() if state.pid in mine}
        state = live.pop(new.pid, None)
        return Lack("it has not reported what it has loaded") if state is None else lacks(state, live.values())

    def _live(self) -> Iterable[WorkerState]:
        host = socket.gethostname()
        # A worker under load may be late with its heartbeat; whether it runs is known here.
        return (state for state in self._workers.live(datetime.now(UTC), _ANY_AGE) if state.host == host)

    async def _let_go(self, process: Process, drain_seconds: float) -> bool:
        """Let a worker drain and leave. Returns whether it had to be killed."""
        if process not in self._loose:
            self._loose.append(process)
        if not self._servers.is_accepting(self._server, process.pid):
            return await self._end(process)
        _signal(process, DRAIN_SIGNAL)
        # Two signals at the same time are one.
        if not await self._has_ended(process, max(drain_seconds, _BETWEEN_SIGNALS_SECONDS)):
            _signal(process, DRAIN_SIGNAL)
        killed = not await self._has_ended(process, self._grace_seconds + KILL_SECONDS)
        self._bury(process, killed=killed)
        return killed

    async def _end(self, process: Process) -> bool:
        """End a worker that has no callers. Returns whether it had to be killed."""
        _signal(process, signal.SIGTERM)
        killed = not await self._has_ended(process, self._grace_seconds + KILL_SECONDS)
        self._bury(process, killed=killed)
        return killed

    def _bury(self, process: Process, *, killed: bool) -> None:
        if killed:
            logger.error("Worker %d did not leave in time and is killed", process.pid)
            _signal(process, signal.SIGKILL)
        process.stop()
        self._loose.remove(process)
        self._servers.forget_worker(self._server, process.pid)
        self._workers.remove(server_name(process.pid))
        # What it counted stays, what it was like goes: else its gauges are shown until another worker starts.
        folder = self._watcher.env.get("PROMETHEUS_MULTIPROC_DIR")
        if folder and os.path.isdir(folder):
            mark_process_dead(process.pid, folder)  # type: ignore[no-untyped-call]

    async def _has_ended(self, process: Process, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while process.is_alive():
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True

    def _require_running(self) -> None:
        if self._watcher.is_stopping() or self._watcher.is_stopped():
            raise NotReplaced("the server is ending")

    def _note_death(self, process: Process) -> None:
        logger.warning("Worker %d has ended by itself; another was started in its place", process.pid)
        assert self.report is not None
        self._tell(died=(*self.report.died, process.pid))

    def _tell(self, **changes: object) -> None:
        assert self.report is not None
        self.report = msgspec.structs.replace(self.report, **changes)

    @property
    def _watcher(self) -> Watcher:
        return self._arbiter.get_watcher(WATCHER)


def lacks(new: WorkerState, others: Iterable[WorkerState]) -> Lack | None:
    """What a new worker would not answer that one of the others does, with its reason; None where there is nothing.

    A model that none of them could load is nobody's fault here, and keeps no new code from service.
    """
    for other in others:
        for model, theirs in other.models.items():
            own = new.models.get(model)
            if own is None or own.release < theirs.release:
                why = new.errors.get(model)
                what = f"release {theirs.release} of {model}, which worker {other.worker} answers from"
                return Lack(f"{what}: {why or 'it is not loaded'}", refused=why is not None)
            if own.release == theirs.release and (lack := _lacks_beside(model, own, theirs)) is not None:
                return lack
    return None


def _lacks_beside(model: str, own: LoadedRelease, theirs: LoadedRelease) -> Lack | None:
    for place in _PLACES:
        if getattr(theirs, place) is not None and getattr(own, place) is None:
            why = own.refused.get(place)
            what = f"the {place.replace('_', ' ')} of {model}: {why or 'it is not loaded'}"
            return Lack(what, refused=why is not None)
    return None


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        process.send_signal(number)
