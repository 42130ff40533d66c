"""What waits to be told, on real databases: SQLite always, PostgreSQL among the slow tests."""

from datetime import timedelta

import pytest

from mlops_assets.core.notices import Notice
from mlops_assets.stores.database import Database
from mlops_assets.stores.outbox import Delivery, Outbox
from mlops_assets_tests.core.ledger_examples import AT

MINUTE = timedelta(minutes=1)


@pytest.fixture
def outbox(url: str) -> Outbox:
    return Outbox(Database(url))


def notice(key: str, model: str = "delay") -> Notice:
    return Notice(key, model, f"title of {key}", "body", "critical")


def delivery(receiver: str, state: str, minutes: int = 0) -> Delivery:
    return Delivery(receiver, state, 1, AT, AT + minutes * MINUTE, "")  # type: ignore[arg-type]


def test_a_key_is_put_once(outbox: Outbox) -> None:
    assert outbox.put(notice("a"), AT)
    assert not outbox.put(notice("a", "air_time"), AT + MINUTE)
    [posted] = outbox.all()
    assert (posted.notice, posted.put_at, posted.state) == (notice("a"), AT, "waiting")


def test_what_is_due_is_given_out_oldest_first_and_to_one_only(outbox: Outbox, url: str) -> None:
    outbox.put(notice("late"), AT + 2 * MINUTE)
    outbox.put(notice("b"), AT + MINUTE)
    outbox.put(notice("a"), AT)
    given = outbox.claim(AT + MINUTE, AT + 6 * MINUTE)
    assert [posted.notice.key for posted in given] == ["a", "b"]
    assert Outbox(Database(url)).claim(AT + MINUTE, AT + 6 * MINUTE) == ()
    assert [posted.notice.key for posted in outbox.claim(AT + 6 * MINUTE, AT + 9 * MINUTE, limit=1)] == ["a"]
    assert [posted.notice.key for posted in outbox.claim(AT + 6 * MINUTE, AT + 9 * MINUTE)] == ["b", "late"]


def test_what_becomes_of_it_follows_from_its_deliveries(outbox: Outbox) -> None:
    for key in ("a", "b", "c", "d"):
        outbox.put(notice(key), AT)
    outbox.claim(AT, AT + MINUTE)
    assert outbox.settle("a", {"x": delivery("x", "sent"), "y": delivery("y", "waiting", 3)}, AT) == "waiting"
    assert outbox.settle("b", {"x": delivery("x", "sent")}, AT) == "sent"
    assert outbox.settle("c", {"x": delivery("x", "sent"), "y": delivery("y", "given up")}, AT) == "given up"
    assert outbox.settle("d", {}, AT) == "no receiver"
    assert outbox.claim(AT + 2 * MINUTE, AT + 9 * MINUTE) == ()
    [again] = outbox.claim(AT + 3 * MINUTE, AT + 9 * MINUTE)
    assert (again.notice.key, [one.receiver for one in again.deliveries]) == ("a", ["x", "y"])
    assert outbox.settle("a", {"x": delivery("x", "sent"), "y": delivery("y", "sent")}, AT) == "sent"
    assert [posted.notice.key for posted in outbox.all("sent")] == ["a", "b"]
    assert outbox.all(model="air_time") == ()
