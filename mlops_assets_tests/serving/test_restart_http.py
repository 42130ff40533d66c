"""Workers of a real server are replaced for new code, one by one, while callers ask without pause: nobody notices."""

import http.client
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
CALLERS = 16

# What tells one code from another: who has imported it.
LEAVE_A_MARK = """
import os
(Path(__file__).parent / f"code-{code}-{{os.getpid()}}").touch()
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    release(home, small_model())
    return home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A service of its own, whose code can be changed."""
    folder = tmp_path / "service"
    folder.mkdir()
    write_code(folder, 1)
    return folder


def write_code(folder: Path, code: int) -> None:
    (folder / "service.py").write_text((SOURCE / "service.py").read_text() + LEAVE_A_MARK.format(code=code))


def pids_of(home: Home) -> set[int]:
    return {worker.pid for worker in WorkerStore(home.workers).live(datetime.now(UTC), HEARTBEAT_MAX_AGE)}


def launcher_of(home: Home) -> psutil.Process:
    (server,) = ServerStore(home).live(datetime.now(UTC))
    return psutil.Process(server.pid)


class Caller(threading.Thread):
    """Asks over one connection as long as it is kept open, without pause. What fails is kept, and never tried again."""

    def __init__(self, port: int, body: str):
        super().__init__(daemon=True)
        self.ids: list[str] = []
        self.failed: list[str] = []
        self.told_to_close = 0
        self.stopping = threading.Event()
        self._body = body
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                self._connection.request("POST", PREDICT, self._body, JSON)
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

    def __init__(self, port: int):
        body = json.dumps({"features": small_model().request_rows(1)[0]})
        self.all = [Caller(port, body) for _ in range(CALLERS)]

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


@contextmanager
def served(home: Home, folder: Path, workers: int) -> Iterator[int]:
    """The port of the service."""
    with running_service(home, workers=workers, target=folder, ready_timeout=300) as url:
        yield int(url.rpartition(":")[2])


def ask(connection: http.client.HTTPConnection) -> tuple[int, str | None]:
    """Status, and what is said of the connection."""
    connection.request("POST", PREDICT, json.dumps({"features": small_model().request_rows(1)[0]}), JSON)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("connection")


@pytest.mark.parametrize("workers", [1, 2])
def test_new_code_comes_into_service_without_a_failed_request(home: Home, folder: Path, workers: int):
    with served(home, folder, workers) as port, Callers(port) as callers:
        before = pids_of(home)
        write_code(folder, 2)

        report = restart_workers(home, ready_seconds=300)

        after = pids_of(home)
        callers.have_gone_on()
        assert callers.failed == []
        # Each of them has let go of its connection when it was told to.
        assert sum(caller.told_to_close for caller in callers.all) >= CALLERS
        assert {one.old for one in report.replaced} == before
        assert {one.new for one in report.replaced} == after
        assert before.isdisjoint(after)
        assert not any(one.killed for one in report.replaced)
        assert {path.name for path in folder.glob("code-2-*")} == {f"code-2-{pid}" for pid in after}
        assert {child.pid for child in launcher_of(home).children()} == after

        # What cannot start harms nobody.
        (folder / "service.py").write_text("raise RuntimeError('broken')")
        with pytest.raises(RestartFailed, match=r"on serving.*ended before it was ready: see the server's output"):
            restart_workers(home, ready_seconds=300)
        callers.have_gone_on()
        assert pids_of(home) == after
        assert callers.failed == []
    logged = [record.id for record in PredictionLog(home.prediction_log).records("delay")]
    assert len(logged) == len(set(logged))
    assert callers.ids == set(logged)


def test_idle_callers_and_long_requests_are_not_cut_off(home: Home, folder: Path):
    """A caller that comes late hears it with its answer, one that never comes is let go of, one under way is answered."""
    with served(home, folder, 1) as port:
        (old,) = pids_of(home)
        late, never, slow = (http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(3))
        assert ask(late) == ask(never) == (200, None)
        body = json.dumps({"features": small_model().request_rows(1)[0]})
        slow.putrequest("POST", PREDICT)
        slow.putheader("content-type", "application/json")
        slow.putheader("content-length", str(len(body)))
        slow.endheaders(body[:5].encode())
        told: list[RestartReport] = []
        restart = threading.Thread(target=lambda: told.append(restart_workers(home, drain_seconds=3)), daemon=True)
        restart.start()

        store = ServerStore(home)
        (server,) = store.live(datetime.now(UTC))
        wait_until(lambda: len(pids_of(home)) == 2, timeout_s=120)
        with pytest.raises(RestartUnderWay, match="0 of 1 workers have been replaced"):
            restart_workers(home)
        (new,) = pids_of(home) - {old}
        wait_until(lambda: store.is_accepting(server.server, new), timeout_s=120)
        fresh = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        wait_until(lambda: launcher_of(home).children() != [] and answers_with_close(late), timeout_s=60)
        assert ask(fresh) == (200, None)
        slow.send(body[5:].encode())
        answer = slow.getresponse()
        assert (answer.status, answer.getheader("connection")) == (200, "close")
        restart.join(60)

        (one,) = told[0].replaced
        assert (one.old, one.new, one.killed) == (old, new, False)
        assert never.sock.recv(1) == b""
        assert ask(fresh) == (200, None)

        # What the terminal that closes says to BentoML's own supervisor cut every connection.
        launcher = launcher_of(home)
        launcher.send_signal(signal.SIGHUP)
        wait_until(lambda: pids_of(home).isdisjoint({old, new}) and len(pids_of(home)) == 1, timeout_s=120)
        assert launcher.is_running()


def answers_with_close(connection: http.client.HTTPConnection) -> bool:
    return ask(connection) == (200, "close")
