"""Workers of a real server are replaced for new code, one by one, while callers ask without pause: nobody notices."""

import http.client
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import psutil
import pytest

from mlops_assets.operations.bento import SOURCE
from mlops_assets.operations.restart import RestartFailed, restart_workers
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE, running_service
from mlops_assets.stores.home import Home
from mlops_assets.stores.prediction_log import PredictionLog
from mlops_assets.stores.servers import RestartReport, RestartUnderWay, ServerStore
from mlops_assets.stores.workers import WorkerStore
from mlops_assets_tests.serving.factory import release, small_model
from mlops_assets_tests.waiting import wait_until

PREDICT = "/v1/models/delay/predict"
JSON = {"content-type": "application/json"}
BODY = json.dumps({"features": small_model().request_rows(1)[0]})
CALLERS = 16

# What tells one code from another: who has imported it.
LEAVE_A_MARK = """
import os
(Path(__file__).parent / f"code-{code}-{{os.getpid()}}").touch()
"""

LOAD_NOTHING = """
from mlops_assets.serving.loader import ReleaseLoader
ReleaseLoader.refresh_if_due = lambda self: False
"""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Service:
    """A running service whose code can be changed."""

    home: Home
    folder: Path
    port: int

    def write(self, code: int) -> None:
        write_code(self.folder, code)

    def pids(self) -> set[int]:
        live = WorkerStore(self.home.workers).live(datetime.now(UTC), HEARTBEAT_MAX_AGE)
        return {worker.pid for worker in live}

    def marks(self, code: int) -> set[int]:
        """Who has imported this code."""
        return {int(path.name.rpartition("-")[2]) for path in self.folder.glob(f"code-{code}-*")}

    def launcher(self) -> psutil.Process:
        (server,) = ServerStore(self.home).live(datetime.now(UTC))
        return psutil.Process(server.pid)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)


@contextmanager
def served(folder: Path, workers: int) -> Iterator[Service]:
    home, code = Home(folder / "home"), folder / "service"
    release(home, small_model())
    code.mkdir()
    write_code(code, 1)
    # A body may take as long as a worker takes to start on a busy machine.
    environment = {"MLOPS_BODY_SECONDS": "300"}
    with running_service(home, workers=workers, target=code, ready_timeout=300, environment=environment) as url:
        yield Service(home, code, int(url.rpartition(":")[2]))


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("restart"), workers=1) as service:
        yield service


def write_code(folder: Path, code: int) -> None:
    (folder / "service.py").write_text((SOURCE / "service.py").read_text() + LEAVE_A_MARK.format(code=code))


class Caller(threading.Thread):
    """Asks over one connection as long as it is kept open. What fails is kept, and never tried again."""

    def __init__(self, port: int, pause_s: float):
        super().__init__(daemon=True)
        self.ids: list[str] = []
        self.failed: list[str] = []
        self.told_to_close = 0
        self.stopping = threading.Event()
        self._pause_s = pause_s
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def run(self) -> None:
        while not self.stopping.wait(self._pause_s):
            try:
                self._connection.request("POST", PREDICT, BODY, JSON)
                answer = self._connection.getresponse()
                told = json.loads(answer.read())
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                self._connection.close()
                continue
            self.told_to_close += answer.getheader("connection") == "close"
            if answer.status == 200:
                self.ids.append(told["prediction_id"])
            else:
                self.failed.append(f"{answer.status} {told}")
        self._connection.close()


class Callers:
    """All that ask at a time."""

    def __init__(self, port: int, pause_s: float):
        self.all = [Caller(port, pause_s) for _ in range(CALLERS)]

    def __enter__(self) -> Self:
        for caller in self.all:
            caller.start()
        wait_until(lambda: min(len(caller.ids) for caller in self.all) > 5, timeout_s=60)
        return self

    def __exit__(self, *exception: object) -> None:
        for caller in self.all:
            caller.stopping.set()
        for caller in self.all:
            caller.join()

    def have_gone_on(self) -> None:
        """Return when each has been answered some times more."""
        before = [len(caller.ids) for caller in self.all]
        wait_until(
            lambda: all(len(one.ids) > count + 5 for one, count in zip(self.all, before, strict=True)), timeout_s=60
        )

    @property
    def ids(self) -> set[str]:
        return {name for caller in self.all for name in caller.ids}

    @property
    def failed(self) -> list[str]:
        return [one for caller in self.all for one in caller.failed]


def ask(connection: http.client.HTTPConnection) -> tuple[int, str | None]:
    """Status, and what is said of the connection."""
    connection.request("POST", PREDICT, BODY, JSON)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("connection")


def restart_under_load(service: Service, callers: Callers) -> RestartReport:
    """Bring the second code into service, and check that nobody has noticed."""
    before = service.pids()
    service.write(2)

    report = restart_workers(service.home, ready_seconds=300)

    after = service.pids()
    callers.have_gone_on()
    assert callers.failed == []
    # Each of them has let go of its connection when it was told to.
    assert sum(caller.told_to_close for caller in callers.all) >= CALLERS
    assert before.isdisjoint(after)
    assert {one.old for one in report.replaced} == before
    assert {one.new for one in report.replaced} == after == service.marks(2)
    assert not any(one.killed for one in report.replaced)
    assert {child.pid for child in service.launcher().children()} == after
    return report


def require_each_answer_on_record(service: Service, callers: Callers) -> None:
    logged = [record.id for record in PredictionLog(service.home.prediction_log).records("delay")]
    assert len(logged) == len(set(logged))
    assert callers.ids <= set(logged)


def test_new_code_comes_into_service_without_a_failed_request(one_worker: Service):
    with Callers(one_worker.port, pause_s=0) as callers:
        restart_under_load(one_worker, callers)
    require_each_answer_on_record(one_worker, callers)


def test_idle_callers_and_long_requests_are_not_cut_off(one_worker: Service):
    """A caller that comes late hears it with its answer, one that never comes is let go of, one under way is answered."""
    (old,) = one_worker.pids()
    late, never, slow, fresh = (one_worker.connection() for _ in range(4))
    assert ask(late) == ask(never) == (200, None)
    slow.putrequest("POST", PREDICT)
    slow.putheader("content-type", "application/json")
    slow.putheader("content-length", str(len(BODY)))
    slow.endheaders(BODY[:5].encode())
    told: list[RestartReport] = []

    def restart() -> None:
        told.append(restart_workers(one_worker.home, ready_seconds=300, drain_seconds=3))

    asking = threading.Thread(target=restart, daemon=True)
    asking.start()

    wait_until(lambda: len(one_worker.pids()) == 2, timeout_s=120)
    (new,) = one_worker.pids() - {old}
    with pytest.raises(RestartUnderWay, match="0 of 1 workers have been replaced"):
        restart_workers(one_worker.home)
    wait_until(lambda: ask(late) == (200, "close"), timeout_s=120)
    assert ask(fresh) == (200, None)
    assert never.sock.recv(1) == b""
    slow.send(BODY[5:].encode())
    answer = slow.getresponse()
    assert (answer.status, answer.getheader("connection")) == (200, "close")
    asking.join(120)
    (one,) = told[0].replaced
    assert (one.old, one.new, one.killed) == (old, new, False)
    assert ask(fresh) == (200, None)


def test_two_workers_are_replaced_one_by_one_and_not_by_what_cannot_start(tmp_path: Path):
    """Also not by what never becomes ready; and the service ends with all its processes amid a restart."""
    with served(tmp_path, workers=2) as service, Callers(service.port, pause_s=0.05) as callers:
        restart_under_load(service, callers)
        pids = service.pids()

        (service.folder / "service.py").write_text("raise RuntimeError('broken')")
        with pytest.raises(RestartFailed, match=r"2 workers go on serving.*ended before it was ready: see process"):
            restart_workers(service.home, ready_seconds=300)
        callers.have_gone_on()
        assert service.pids() == pids

        # At SIGHUP BentoML's own supervisor would cut every connection.
        (service.folder / "service.py").write_text((SOURCE / "service.py").read_text() + LOAD_NOTHING)
        launcher = service.launcher()
        launcher.send_signal(signal.SIGHUP)
        wait_until(lambda: len(service.pids()) == 3, timeout_s=120)
        callers.have_gone_on()
        assert callers.failed == []
        for caller in callers.all:
            caller.stopping.set()
            caller.join()
        family = launcher.children(recursive=True)
    _, alive = psutil.wait_procs([launcher, *family], timeout=60)
    assert alive == []
    require_each_answer_on_record(service, callers)
