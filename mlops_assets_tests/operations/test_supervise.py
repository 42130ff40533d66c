"""The supervised service: started, started again, ended; and waiting for its workers to have a release."""

import os
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from mlops_assets.core.rollout import Release
from mlops_assets.operations.supervise import (
    HEARTBEAT_MAX_AGE,
    NotLive,
    RefusedByWorker,
    ServiceFailed,
    ServiceOptions,
    free_port,
    running_service,
    supervise,
    wait_until_live,
)
from mlops_assets.stores.bundles import BundleStore
from mlops_assets.stores.home import Home
from mlops_assets.stores.prediction_log import PredictionLog
from mlops_assets.stores.workers import LoadedRelease, WorkerState, WorkerStore
from mlops_assets_tests.serving.factory import corrupt, publish, release, small_model
from mlops_assets_tests.waiting import wait_until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def report(home: Home, worker: str, release: int, error: str | None = None, **refused: int) -> None:
    now = datetime.now(UTC)
    loaded = {"delay": LoadedRelease(release, release, "sha256:x", now)} if release else {}
    errors = {} if error is None else {"delay": error}
    WorkerStore(home.workers).report(
        WorkerState(worker, os.getpid(), "another-host", now, now, loaded, errors, refused)
    )


class TestWaiting:
    def test_no_service_is_no_worker(self, home: Home):
        assert wait_until_live(home, "delay", 1) == 0

    def test_every_worker_has_it(self, home: Home):
        report(home, "a", 3)
        report(home, "b", 4)
        assert wait_until_live(home, "delay", 3) == 2

    def test_a_worker_that_comes_late_is_waited_for(self, home: Home):
        report(home, "a", 1)
        later = threading.Timer(0.3, report, (home, "a", 2))
        later.start()
        assert wait_until_live(home, "delay", 2, timeout=20) == 1
        later.join()

    def test_a_worker_that_refuses_it_is_an_error_with_its_reason(self, home: Home):
        report(home, "a", 2)
        report(home, "b", 1, "the bundle is damaged")
        with pytest.raises(NotLive, match=r"worker b refuses release 2 of delay.*the bundle is damaged"):
            wait_until_live(home, "delay", 2)

    def test_what_it_said_of_the_release_before_is_not_held_against_this_one(self, home: Home):
        """A way back was taken back at once, because a worker still said that it could not load what it led away from."""
        report(home, "a", 0, "the bundle is damaged", delay=1)
        with pytest.raises(NotLive, match="not loaded by a"):
            wait_until_live(home, "delay", 2, timeout=0.2)
        later = threading.Timer(0.1, report, (home, "a", 2))
        later.start()
        assert wait_until_live(home, "delay", 2, timeout=20) == 1
        later.join()
        report(home, "a", 0, "the bundle is damaged", delay=2)
        with pytest.raises(NotLive, match="refuses release 2"):
            wait_until_live(home, "delay", 2)

    def test_a_worker_that_could_not_read_a_plan_is_late(self, home: Home):
        """A way back was taken back, because a worker had had no file descriptor left for the plan before it."""
        report(home, "a", 1, "OSError: too many open files", delay=0)
        with pytest.raises(NotLive, match="not loaded by a") as late:
            wait_until_live(home, "delay", 2, timeout=0.2)
        assert not isinstance(late.value, RefusedByWorker)

    def test_a_worker_that_never_has_it_is_named(self, home: Home):
        report(home, "a", 1)
        with pytest.raises(NotLive, match="a \\(release 1\\)"):
            wait_until_live(home, "delay", 2, timeout=0.2)


def test_a_service_that_dies_at_once_is_given_up_with_a_clear_message(home: Home, tmp_path: Path):
    (tmp_path / "broken").mkdir()
    options = ServiceOptions(
        port=free_port(), target=tmp_path / "broken", max_quick_deaths=2, first_back_off_seconds=0.01
    )
    with pytest.raises(ServiceFailed, match=r"died 2 times in a row.*exited with 1"):
        supervise(home, options, threading.Event())


def test_an_address_that_is_taken_is_refused_at_once(home: Home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServiceFailed, match="cannot listen on"):
            supervise(home, ServiceOptions(port=taken.getsockname()[1]), threading.Event())
    assert home.service_url() is None


def workers_of(home: Home) -> set[int]:
    return {worker.pid for worker in WorkerStore(home.workers).live(datetime.now(UTC), HEARTBEAT_MAX_AGE)}


class Caller(threading.Thread):
    """Asks for predictions, one after the other, and keeps the ids of those that were answered."""

    def __init__(self, url: str, features: dict[str, Any]):
        super().__init__(daemon=True)
        self.answered: set[str] = set()
        self.releases: set[int] = set()
        self.stopping = threading.Event()
        self._url = url
        self._features = features

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=5, trust_env=False) as client:
            while not self.stopping.is_set():
                try:
                    response = client.post("/v1/models/delay/predict", json={"features": self._features})
                except httpx.TransportError:
                    self.stopping.wait(0.02)
                    continue
                if response.status_code == 200:
                    self.answered.add(response.json()["prediction_id"])
                    self.releases.add(response.json()["release"])


@pytest.mark.slow
def test_killing_under_load_loses_no_acknowledged_prediction_and_the_same_release_comes_back(home: Home):
    release(home, small_model())
    plan = release(home, small_model(version=2))
    with running_service(home, workers=1, ready_timeout=120) as url:
        callers = [Caller(url, small_model().request_rows(1)[0]) for _ in range(4)]
        for caller in callers:
            caller.start()
        first = callers[0]
        wait_until(lambda: len(first.answered) > 50)

        # One worker, which BentoML alone would miss for ten seconds; then the whole service.
        (worker,) = workers_of(home)
        before = len(first.answered)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: len(first.answered) > before + 50, timeout_s=60)
        (worker,) = workers_of(home)
        before = len(first.answered)
        os.killpg(os.getpgid(worker), signal.SIGKILL)
        wait_until(lambda: len(first.answered) > before + 50, timeout_s=60)

        for caller in callers:
            caller.stopping.set()
            caller.join()
        assert {number for caller in callers for number in caller.releases} == {plan.release}

    logged = {record.id for record in PredictionLog(home.prediction_log).records("delay")}
    acknowledged = set().union(*(caller.answered for caller in callers))
    assert acknowledged <= logged
    assert workers_of(home) == set()


@pytest.mark.slow
def test_a_refused_release_is_told_and_the_service_stays_on_the_former(home: Home):
    release(home, small_model())
    with running_service(home, ready_timeout=120) as url:
        bundle = BundleStore(home.bundles).put(small_model(version=2).manifest, small_model(version=2).files)
        corrupt(home, bundle)
        publish(home, "delay", Release(2, bundle))
        with pytest.raises(NotLive, match="damaged"):
            wait_until_live(home, "delay", 2)
        assert home.service_url() == url
        assert httpx.get(f"{url}/v1/models", trust_env=False).json()["models"][0]["release"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_the_service_with_all_its_processes(home: Home, number: signal.Signals):
    """Also when the supervisor itself is killed: the launcher sees that it is gone."""
    release(home, small_model())
    port = free_port()
    program = (
        "from pathlib import Path\nfrom mlops_assets.operations.supervise import serve\n"
        "from mlops_assets.stores.home import Home\n"
        f"raise SystemExit(serve(Home(Path({str(home.root)!r})), port={port}, workers=2))"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: len(workers_of(home)) == 2, timeout_s=120)
        family = psutil.Process(supervisor.pid).children(recursive=True)
        supervisor.send_signal(number)
        assert supervisor.wait(60) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        _, alive = psutil.wait_procs(family, timeout=60)
        assert alive == []
    finally:
        supervisor.kill()
        supervisor.wait()
