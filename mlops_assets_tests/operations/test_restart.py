"""A restart is asked for and followed; there is one at a time, and whoever asked hears how it ended."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from mlops_assets.cli import app
from mlops_assets.operations import restart as operation
from mlops_assets.operations.restart import RestartFailed, restart_workers
from mlops_assets.stores.home import Home
from mlops_assets.stores.servers import (
    Replacement,
    RestartOrder,
    RestartReport,
    RestartUnderWay,
    ServerState,
    ServerStore,
)

NAME = "host-1"
ONE, TWO = Replacement(11, 21, 3.21, 0.4), Replacement(12, 22, 2.5, 25.0, killed=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    monkeypatch.setattr(operation, "_LOOK_SECONDS", 0.005)
    return Home(tmp_path)


class FakeServer:
    """Reports what it is told to, and carries out one order with it."""

    def __init__(self, home: Home, name: str = NAME):
        self.store = ServerStore(home)
        self.name = name
        self.got: list[RestartOrder] = []
        self.report(None)

    def report(self, restart: RestartReport | None) -> None:
        now = datetime.now(UTC)
        self.store.report(ServerState(self.name, os.getpid(), socket.gethostname(), "http://x:1", now, now, restart))

    def carry_out(self, *reports: Callable[[RestartReport], RestartReport] | None) -> threading.Thread:
        """Begin the order that comes, and report; None ends the server instead."""

        def run() -> None:
            while (order := self.store.ordered(self.name, datetime.now(UTC))) is None:
                pass
            self.got.append(order)
            begun = RestartReport(order.id, datetime.now(UTC), workers=2)
            self.report(begun)
            self.store.settle_order(self.name, order.id)
            for change in reports:
                if change is None:
                    self.store.remove(self.name)
                else:
                    begun = change(begun)
                    self.report(begun)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def server(home: Home) -> Iterator[FakeServer]:
    server = FakeServer(home)
    yield server
    assert server.store.ordered(NAME, datetime.now(UTC)) is None


def replaced(*ones: Replacement) -> Callable[[RestartReport], RestartReport]:
    return lambda report: msgspec.structs.replace(report, replaced=ones)


def ended(failure: str | None = None, died: tuple[int, ...] = ()) -> Callable[[RestartReport], RestartReport]:
    return lambda report: msgspec.structs.replace(report, ended_at=datetime.now(UTC), failure=failure, died=died)


def test_each_replacement_is_told_once(home: Home, server: FakeServer):
    told: list[Replacement] = []
    server.carry_out(replaced(ONE), replaced(ONE, TWO), ended())
    report = restart_workers(home, ready_seconds=7, drain_seconds=3, tell=told.append)
    assert report.replaced == (ONE, TWO)
    assert told == [ONE, TWO]
    (order,) = server.got
    assert (order.ready_seconds, order.drain_seconds) == (7, 3)


def test_a_failure_says_how_many_go_on_and_why(home: Home, server: FakeServer):
    server.carry_out(replaced(ONE), ended("not ready within 60 s"))
    with pytest.raises(
        RestartFailed, match="1 worker goes on serving with the code from before: not ready within 60 s"
    ):
        restart_workers(home)


def test_a_second_one_is_refused_and_leaves_no_order(home: Home, server: FakeServer):
    server.report(RestartReport("another's", datetime.now(UTC), 2, (ONE,)))
    with pytest.raises(RestartUnderWay, match=r"is being restarted since .*, 1 of 2 workers have been replaced"):
        restart_workers(home)


def test_one_that_has_ended_keeps_nobody_from_the_next(home: Home, server: FakeServer):
    server.report(RestartReport("another's", datetime.now(UTC), 2, (ONE,), ended_at=datetime.now(UTC)))
    server.carry_out(ended())
    assert restart_workers(home).order == server.got[0].id


def test_a_server_that_ends_meanwhile_is_told_of(home: Home, server: FakeServer):
    server.carry_out(replaced(ONE), None)
    with pytest.raises(RestartFailed, match="has ended meanwhile"):
        restart_workers(home)


def test_an_order_that_is_not_taken_up_is_withdrawn(home: Home, server: FakeServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(operation, "TAKE_UP_SECONDS", 0.05)
    with pytest.raises(RestartFailed, match="has not begun within"):
        restart_workers(home)


def test_without_a_server_it_is_said_what_to_start(home: Home):
    with pytest.raises(RestartFailed, match=r"no server runs on .*: start one with `mlops-assets serve`"):
        restart_workers(home)


def test_of_several_servers_one_has_to_be_chosen(home: Home, server: FakeServer):
    other = FakeServer(home, "host-2")
    with pytest.raises(RestartFailed, match=r"2 servers run on .*host-1 \(http://x:1\), host-2"):
        restart_workers(home)
    with pytest.raises(RestartFailed, match=r"no server 'host-3' runs on .*: there are host-1, host-2"):
        restart_workers(home, server="host-3")
    other.carry_out(ended())
    assert restart_workers(home, server="host-2").order == other.got[0].id
    assert server.got == []


class TestTyped:
    def test_who_replaced_whom_is_shown(self, home: Home, server: FakeServer):
        server.carry_out(replaced(ONE, TWO), ended(died=(13,)))
        shown = CliRunner().invoke(app, ["restart", "--drain-seconds", "5"])
        assert shown.exit_code == 0, shown.output
        lines = shown.output.splitlines()
        assert lines[0] == "worker 11 -> 21: ready in 3.2 s, the old one left in 0.4 s"
        assert lines[1] == "worker 12 -> 22: ready in 2.5 s, the old one had to be killed after 25.0 s"
        assert lines[2] == "worker 13 ended by itself meanwhile; the server started another"
        assert lines[3].startswith("2 of 2 workers replaced in ")
        assert server.got[0].drain_seconds == 5

    def test_a_failure_ends_with_code_1(self, home: Home, server: FakeServer):
        server.carry_out(ended("[why] it failed"))
        shown = CliRunner().invoke(app, ["restart"])
        assert shown.exit_code == 1
        assert "2 workers go on serving with the code from before: [why] it failed" in shown.output
