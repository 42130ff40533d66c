"""Workers are replaced one by one; whatever goes wrong, there are as many as before, and somebody is told."""

import asyncio
import itertools
import re
import signal
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlops_assets.core.records import Role
from mlops_assets.core.service_counts import ServiceCounts
from mlops_assets.serving import rolling
from mlops_assets.serving.draining import CANDIDATE_VARIABLE, DRAIN_SIGNAL
from mlops_assets.serving.rolling import Lack, RollingRestart, lacks
from mlops_assets.stores.home import Home
from mlops_assets.stores.servers import RestartOrder, RestartReport, ServerStore
from mlops_assets.stores.workers import LoadedRelease, LoadedVersion, WorkerState, WorkerStore

NOW = datetime(2026, 5, 1, tzinfo=UTC)
SERVER = "host-1"
FIRST_PID = 2**22 + 1  # above what Linux gives


def worker(pid: int, release: int | None = 1, error: str | None = None, **loaded: Any) -> WorkerState:
    models = {} if release is None else {"delay": LoadedRelease(release, release, "sha256:x", NOW, **loaded)}
    errors = {} if error is None else {"delay": error}
    return WorkerState(f"host-{pid}", pid, socket.gethostname(), NOW, datetime.now(UTC), models, errors)


def version(role: Role) -> LoadedVersion:
    return LoadedVersion(2, "sha256:y", role, ServiceCounts())


class TestLacking:
    def test_the_same_release_or_a_later_one_lacks_nothing(self):
        assert lacks(worker(2), [worker(1)]) is None
        assert lacks(worker(2, release=3), [worker(1)]) is None

    def test_where_there_is_nobody_to_compare_with_nothing_is_lacking(self):
        assert lacks(worker(2, release=None, error="damaged"), []) is None

    def test_a_model_that_others_answer_for_is_missed_with_the_reason(self):
        what = "release 4 of delay, which worker host-1 answers from: "
        refusing = worker(2, release=None, error="the bundle is damaged")
        assert lacks(refusing, [worker(1, release=4)]) == Lack(f"{what}the bundle is damaged", refused=True)
        assert lacks(worker(2, release=None), [worker(1, release=4)]) == Lack(f"{what}it is not loaded")

    def test_a_model_that_nobody_could_load_keeps_no_code_from_service(self):
        assert lacks(worker(2, release=None, error="damaged"), [worker(1, release=None, error="damaged")]) is None

    def test_an_earlier_release_is_waited_for(self):
        lack = lacks(worker(2, release=1), [worker(1, release=2)])
        assert lack is not None
        assert not lack.refused

    def test_whom_others_have_beside_the_champion_is_missed(self):
        other = worker(1, standby=version("standby"))
        refusing = worker(2, refused={"standby": "damaged"})
        assert lacks(refusing, [other]) == Lack("the standby of delay: damaged", refused=True)
        assert lacks(worker(2), [other]) == Lack("the standby of delay: it is not loaded")
        assert lacks(worker(2, standby=version("standby")), [other]) is None
        assert lacks(worker(2, release=2), [other]) is None


class FakeProcess:
    """A worker that notes what it is sent, and by default leaves when it is told to."""

    def __init__(self, pid: int, obeys: bool = True):
        self.pid = pid
        self.got: list[signal.Signals] = []
        self.alive = True
        self._obeys = obeys

    def is_alive(self) -> bool:
        return self.alive

    def send_signal(self, number: signal.Signals) -> None:
        self.got.append(number)
        if self._obeys or number == signal.SIGKILL:
            self.alive = False

    def stop(self) -> None: ...


class FakeArbiter:
    """Has one watcher, which is this object too, and starts processes whose fate a test decides."""

    def __init__(self, home: Home, workers: int):
        self.home = home
        self.store = ServerStore(home)
        self.workers = WorkerStore(home.workers)
        self.env: dict[str, str] = {"PROMETHEUS_MULTIPROC_DIR": str(home.root)}
        self.processes: dict[int, FakeProcess] = {}
        self.started: list[FakeProcess] = []
        self.stopping = False
        self.candidates = 0
        self.on_start: Callable[[FakeProcess], None] = self.load
        self.accept_when_wanted = True
        self._pids = itertools.count(FIRST_PID)
        self._callbacks: list[tuple[Any, Any]] = []
        for _ in range(workers):
            self.spawn_process()
            self.load(self.started[-1])
            self.store.accepts(SERVER, self.started[-1].pid)
        self.old = list(self.started)

    @property
    def loop(self) -> "FakeArbiter":
        return self

    def add_callback(self, callback: Any, argument: Any) -> None:
        self._callbacks.append((callback, argument))

    def get_watcher(self, _name: str) -> "FakeArbiter":
        return self

    def is_stopping(self) -> bool:
        return self.stopping

    def is_stopped(self) -> bool:
        return False

    def spawn_process(self) -> None:
        self.candidates += CANDIDATE_VARIABLE in self.env
        process = FakeProcess(next(self._pids))
        self.processes[process.pid] = process
        self.started.append(process)

    def load(self, process: FakeProcess) -> None:
        self.workers.report(worker(process.pid))

    def restart(self, **order: Any) -> RestartReport:
        restart = RollingRestart(self, self.home, SERVER, grace_seconds=0)  # type: ignore[arg-type]
        restart.begin(RestartOrder("an order", NOW, **order))
        assert restart.is_under_way
        ((callback, argument),) = self._callbacks

        async def run() -> None:
            task = asyncio.create_task(callback(argument))
            acted: set[int] = set()
            while not task.done():
                for process in self.started[len(self.old) :]:
                    if process.pid not in acted:
                        acted.add(process.pid)
                        self.on_start(process)
                    if self.accept_when_wanted and self.store.is_wanted(SERVER, process.pid):
                        self.store.accepts(SERVER, process.pid)
                await asyncio.sleep(0)
            await task

        asyncio.run(run())
        assert restart.report is not None
        assert not restart.is_under_way
        return restart.report


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(rolling, "_BETWEEN_SIGNALS_SECONDS", 0.005)
    monkeypatch.setattr(rolling, "KILL_SECONDS", 0.02)
    monkeypatch.setattr("mlops_assets.stores.workers._is_running", lambda _pid: True)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_each_worker_is_replaced_when_another_is_ready_and_told_to_drain(home: Home):
    arbiter = FakeArbiter(home, 2)
    (home.root / f"gauge_liveall_{arbiter.old[0].pid}.db").touch()

    report = arbiter.restart()

    new = arbiter.started[2:]
    assert [(one.old, one.new) for one in report.replaced] == [
        (old.pid, one.pid) for old, one in zip(arbiter.old, new, strict=True)
    ]
    assert report.failure is None
    assert report.ended_at is not None
    assert [process.got for process in arbiter.started] == [[DRAIN_SIGNAL], [DRAIN_SIGNAL], [], []]
    assert list(arbiter.processes.values()) == new
    assert arbiter.candidates == 2
    assert CANDIDATE_VARIABLE not in arbiter.env
    assert list(home.root.glob("gauge_*")) == []


def test_a_worker_that_ends_while_it_starts_leaves_the_old_one_in_place(home: Home):
    arbiter = FakeArbiter(home, 2)
    arbiter.on_start = lambda process: setattr(process, "alive", False)

    report = arbiter.restart()

    assert "ended before it was ready: see process" in str(report.failure)
    assert report.replaced == ()
    assert list(arbiter.processes.values()) == arbiter.old
    assert [process.got for process in arbiter.old] == [[], []]
    assert len(arbiter.started) == 3


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (None, "not ready within 0.05 s: it has not reported what it has loaded: see process"),
        (worker(0, release=None), "not ready within 0.05 s: release 1 of delay, which worker .*: it is not loaded"),
        (worker(0, release=None, error="it is damaged"), "since it refuses release 1 of delay, .*: it is damaged: see"),
        (worker(0), "not ready within 0.05 s: it does not accept requests"),
    ],
)
def test_a_worker_that_does_not_get_ready_is_ended(home: Home, state: WorkerState | None, why: str):
    """What has not loaded all is not even let accept requests: it would take its part of them."""
    arbiter = FakeArbiter(home, 1)
    arbiter.accept_when_wanted = False

    def start(process: FakeProcess) -> None:
        if state is not None:
            mine = msgspec.structs.replace(state, worker=f"host-{process.pid}", pid=process.pid)
            arbiter.workers.report(msgspec.structs.replace(mine, heartbeat_at=datetime.now(UTC)))

    arbiter.on_start = start
    report = arbiter.restart(ready_seconds=0.05)

    assert re.search(why, str(report.failure)), report.failure
    assert arbiter.started[1].got == [signal.SIGTERM]
    assert list(arbiter.processes.values()) == arbiter.old


def test_a_worker_that_does_not_leave_is_told_again_and_killed(home: Home):
    arbiter = FakeArbiter(home, 1)
    arbiter.old[0]._obeys = False

    report = arbiter.restart(drain_seconds=0)

    assert arbiter.old[0].got == [DRAIN_SIGNAL, DRAIN_SIGNAL, signal.SIGKILL]
    assert report.replaced[0].killed


@pytest.mark.parametrize("noticed", [False, True])
def test_a_worker_that_dies_before_its_place_is_taken_is_replaced_once(home: Home, noticed: bool):
    """The arbiter has started another by then, or is about to; in the end there are as many as there should be."""
    arbiter = FakeArbiter(home, 2)

    def die(process: FakeProcess) -> None:
        if process is arbiter.started[2]:
            arbiter.old[0].alive = False
            if noticed:
                del arbiter.processes[arbiter.old[0].pid]
                arbiter.spawn_process()
        arbiter.load(process)

    arbiter.on_start = die
    report = arbiter.restart()

    assert report.died == (arbiter.old[0].pid,)
    assert [one.old for one in report.replaced] == [arbiter.old[1].pid]
    assert report.failure is None
    assert len(arbiter.processes) == 2
    assert {process.pid for process in arbiter.started if process.alive} == set(arbiter.processes)
    assert all(process not in arbiter.old for process in arbiter.processes.values())


def test_a_worker_that_died_before_its_turn_needs_no_replacement(home: Home):
    arbiter = FakeArbiter(home, 2)

    def die(process: FakeProcess) -> None:
        arbiter.processes.pop(arbiter.old[1].pid, None)
        arbiter.load(process)

    arbiter.on_start = die
    report = arbiter.restart()

    assert report.died == (arbiter.old[1].pid,)
    assert len(report.replaced) == 1
    assert len(arbiter.started) == 3


def test_a_server_that_ends_starts_no_more_workers(home: Home):
    arbiter = FakeArbiter(home, 1)
    arbiter.on_start = lambda _process: setattr(arbiter, "stopping", True)

    report = arbiter.restart()

    assert report.failure == "the server is ending"
    assert arbiter.started[1].got == [signal.SIGTERM]
    assert list(arbiter.processes.values()) == arbiter.old


def test_reports_that_cannot_be_read_end_it(home: Home):
    arbiter = FakeArbiter(home, 1)
    arbiter.on_start = lambda _process: (home.workers / "odd.json").write_text("{") and None  # type: ignore[func-returns-value]

    report = arbiter.restart()

    assert "odd.json is not a worker's report" in str(report.failure)
    assert list(arbiter.processes.values()) == arbiter.old


def test_processes_that_the_arbiter_does_not_know_are_ended_with_it(home: Home):
    restart = RollingRestart(FakeArbiter(home, 0), home, SERVER, grace_seconds=0)  # type: ignore[arg-type]
    polite, deaf = FakeProcess(FIRST_PID), FakeProcess(FIRST_PID + 1, obeys=False)
    restart._loose = [polite, deaf]
    restart.end_loose()
    assert signal.SIGTERM in polite.got
    assert deaf.got == [signal.SIGTERM, signal.SIGKILL]
