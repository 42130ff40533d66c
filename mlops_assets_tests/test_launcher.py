"""A run is alive as long as its code server listens; nobody else can say that it died with it."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.launcher.base import WorkerStatus

from mlops_assets.launcher import WatchedRunLauncher

ROOT = Path(__file__).parent.parent


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    path = str(tmp_path / "server")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        yield path, listening


def status_of(server: dict[str, object] | None) -> WorkerStatus:
    tags = {} if server is None else {".dagster/grpc_info": json.dumps(server)}
    run = dg.DagsterRun(job_name="delay_monitoring", status=dg.DagsterRunStatus.STARTED, tags=tags)
    return WatchedRunLauncher().check_run_worker_health(run).status


def test_a_run_dies_with_its_server(server: tuple[str, socket.socket]) -> None:
    path, listening = server
    info = {"host": "localhost", "socket": path}
    assert status_of(info) == WorkerStatus.RUNNING
    listening.close()
    assert status_of(info) == WorkerStatus.NOT_FOUND, "as a killed server leaves its socket"
    Path(path).unlink()
    assert status_of(info) == WorkerStatus.NOT_FOUND


def test_so_does_one_whose_server_has_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        info = {"host": "127.0.0.1", "port": listening.getsockname()[1]}
        assert status_of(info) == WorkerStatus.RUNNING
    assert status_of(info) == WorkerStatus.NOT_FOUND


def test_what_cannot_be_known_counts_as_alive() -> None:
    assert status_of(None) == WorkerStatus.RUNNING, "started by hand, without a server"
    assert status_of({"host": "no.such.host.invalid", "port": 1}) == WorkerStatus.RUNNING


def test_the_instance_uses_it_and_looks_often() -> None:
    config = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    assert config["run_launcher"] == {"module": WatchedRunLauncher.__module__, "class": WatchedRunLauncher.__name__}
    assert config["run_monitoring"] == {"enabled": True, "poll_interval_seconds": 30}
