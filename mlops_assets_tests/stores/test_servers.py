"""What servers report, and that an order for a restart is given once and to somebody."""

import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from mlops_assets.stores.home import Home
from mlops_assets.stores.servers import RestartOrder, RestartUnderWay, ServerState, ServerStore, server_name

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> ServerStore:
    return ServerStore(Home(tmp_path / "home"))


def state(server: str, pid: int | None = None, host: str | None = None, age_s: float = 0) -> ServerState:
    at = NOW - timedelta(seconds=age_s)
    return ServerState(server, pid or os.getpid(), host or socket.gethostname(), "http://127.0.0.1:1", NOW, at)


def order(name: str = "one", age_s: float = 0) -> RestartOrder:
    return RestartOrder(name, NOW - timedelta(seconds=age_s))


def test_servers_with_a_heartbeat_and_a_process_are_live(store: ServerStore):
    assert store.live(NOW) == ()
    mine, elsewhere = state("a"), state("b", pid=2**22 + 1, host="elsewhere")
    for one in (mine, elsewhere, state("c", pid=2**22 + 1), state("d", host="elsewhere", age_s=60)):
        store.report(one)
    assert store.live(NOW) == (mine, elsewhere)

    store.sweep(NOW)
    assert sorted(path.name for path in store.root.iterdir()) == ["a", "b"]
    store.remove("a")
    store.remove("a")
    assert store.live(NOW) == (elsewhere,)
    assert store.get("a") is None


def test_a_report_that_a_power_loss_has_emptied_is_none(store: ServerStore):
    store.report(state("a"))
    (store.root / "a" / "state.json").write_bytes(b"")
    assert store.get("a") is None
    assert store.live(NOW) == ()


def test_an_order_waits_until_it_is_settled_and_there_is_one_at_a_time(store: ServerStore):
    store.report(state("a"))
    assert store.ordered("a", NOW) is None
    store.order("a", order())
    assert store.ordered("a", NOW) == order()
    with pytest.raises(RestartUnderWay, match="has just been asked for"):
        store.order("a", order("another"))
    assert store.ordered("a", NOW) == order()
    store.settle_order("a", "another")
    assert store.ordered("a", NOW) == order()
    store.settle_order("a", "one")
    store.settle_order("a", "one")
    store.order("a", order("another"))
    assert store.ordered("a", NOW) == order("another")
    assert sorted(path.name for path in (store.root / "a").iterdir()) == ["order.json", "state.json"]


@pytest.mark.parametrize("content", [msgspec.json.encode(order(age_s=60)), b"{", b""])
def test_an_order_that_nobody_waits_for_is_forgotten(store: ServerStore, content: bytes):
    store.report(state("a"))
    (store.root / "a" / "order.json").write_bytes(content)
    assert store.ordered("a", NOW) is None
    store.order("a", order())


def test_workers_are_noted_that_accept(store: ServerStore):
    assert not store.is_accepting("a", 7)
    store.accepts("a", 7)
    assert store.is_accepting("a", 7)
    assert not store.is_accepting("a", 8)
    assert not store.is_wanted("a", 7)
    store.want("a", 7)
    assert store.is_wanted("a", 7)
    store.forget_worker("a", 7)
    store.forget_worker("a", 7)
    assert not store.is_accepting("a", 7)
    assert not store.is_wanted("a", 7)


def test_a_name_is_of_this_host_and_stays_in_the_folder(store: ServerStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "../ä host.local")
    name = server_name(12)
    store.report(state(name))
    assert store.get(name) is not None
    with pytest.raises(ValueError, match="cannot name a server"):
        store.get("../elsewhere")
