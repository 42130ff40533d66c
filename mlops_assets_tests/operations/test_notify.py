"""Notices arrive at real receivers, once, also when those are down for a while; and when they are down for good, that is seen."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mlops_assets.core.ledger import Joined, Resolved
from mlops_assets.core.notices import Notice
from mlops_assets.operations import notify
from mlops_assets.operations.notify import MAX_ATTEMPTS, Sent, receiver_name, send_due
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.home import Home
from mlops_assets_tests.core.ledger_examples import AT, entry, opened
from mlops_assets_tests.operations.receivers import MailServer, WebHook, nobody, silent

SECRETS = ("hunter2", "secret-path")


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    """Whatever a test does, no secret of an address is in the database afterwards."""
    stores = Stores(Home(tmp_path))
    yield stores
    content = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*"))
    assert content
    assert not [secret for secret in SECRETS if secret.encode() in content]


class Log(logging.Handler):
    """What the program's log would hold. (pytest's own listens also at loggers that tell nobody.)"""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    caplog.set_level(logging.DEBUG)
    log = Log()
    logging.getLogger().addHandler(log)
    yield log
    logging.getLogger().removeHandler(log)


def put(stores: Stores, key: str = "a") -> bool:
    return stores.outbox.put(Notice(key, "delay", "delay: <temp> is broken", "61 % missing\n& rising", "warning"), AT)


def send(stores: Stores, *urls: str, minutes: float = 0, timeout_s: float = 5) -> Sent:
    return send_due(stores, AT + timedelta(minutes=minutes), {"delay": urls}, timeout_s=timeout_s)


def test_a_web_hook_gets_what_is_put_and_gets_it_once(stores: Stores) -> None:
    with WebHook() as hook:
        assert put(stores)
        assert not put(stores)
        assert send(stores, hook.url) == Sent(arrived=1)
        assert not put(stores)
        assert send(stores, hook.url, minutes=60) == Sent()
    [message] = hook.got
    assert (message["title"], message["message"]) == ("delay: <temp> is broken", "61 % missing\n& rising")
    assert message["type"] == "warning"
    [posted] = stores.outbox.all()
    assert (posted.state, posted.deliveries[0].receiver) == ("sent", "receiver 1 (json)")


def test_a_mail_arrives(stores: Stores) -> None:
    with MailServer() as server:
        put(stores)
        assert send(stores, server.url) == Sent(arrived=1)
    [mail] = server.got
    assert (mail["Subject"], mail["To"]) == ("delay: <temp> is broken", "ann@example.org")
    body = mail.get_body(("plain", "html"))
    assert body is not None
    assert "61 % missing" in body.get_content()


def test_the_steps_of_an_incident_arrive_in_their_order(stores: Stores) -> None:
    facts = (opened(), Joined("warning"), Joined("critical"), Joined("critical"), Resolved("well"))
    with WebHook() as hook:
        for minute, fact in enumerate(facts):
            stores.ledger.record(entry("i-1", fact, minute))
        send(stores, hook.url, minutes=10)
    assert [(message["title"], message["type"]) for message in hook.got] == [
        ("delay: feed:temp is broken", "warning"),
        ("delay: now critical: feed:temp is broken", "failure"),
        ("delay: resolved: feed:temp is broken", "info"),
    ]


def test_a_receiver_that_fails_at_first_is_tried_again_and_the_others_are_not(stores: Stores) -> None:
    with WebHook(503, 500) as failing, WebHook() as well:
        put(stores)
        assert send(stores, failing.url, well.url) == Sent(arrived=1, to_retry=1)
        [posted] = stores.outbox.all("waiting")
        assert [one.error for one in posted.deliveries] == ["answered with status 503", ""]
        assert send(stores, failing.url, well.url, minutes=0.4) == Sent()  # not due yet
        assert send(stores, failing.url, well.url, minutes=0.6) == Sent(to_retry=1)
        assert send(stores, failing.url, well.url, minutes=1.5) == Sent()
        assert send(stores, failing.url, well.url, minutes=1.7) == Sent(arrived=1)
    assert (failing.asked, well.asked) == (3, 1)
    assert stores.outbox.all()[0].state == "sent"


def test_a_receiver_that_is_down_for_good_is_given_up_visibly(
    stores: Stores, log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    with nobody() as url, WebHook() as well:
        put(stores)
        tried, minutes = 0, 0.0
        while stores.outbox.all("waiting"):
            sent = send(stores, url, well.url, minutes=minutes)
            tried += sent.to_retry + len(sent.given_up)
            minutes += 1
    assert tried == MAX_ATTEMPTS
    assert sent.given_up == ("'delay: <temp> is broken' to receiver 1 (json): not reached, or not accepted",)
    assert 150 < minutes < 240
    [posted] = stores.outbox.all("given up")
    assert [(one.receiver, one.state, one.attempts) for one in posted.deliveries] == [
        ("receiver 1 (json)", "given up", MAX_ATTEMPTS),
        ("receiver 2 (json)", "sent", 1),
    ]
    assert len(well.got) == 1
    assert not [secret for secret in SECRETS if secret in "".join([*log.lines, *capfd.readouterr()])]


def test_a_receiver_that_never_answers_holds_nobody_up(stores: Stores) -> None:
    with silent() as url, WebHook() as well:
        put(stores)
        assert send(stores, url, well.url, timeout_s=0.2) == Sent(arrived=1, to_retry=1)
    [posted] = stores.outbox.all()
    assert posted.deliveries[0].error == "no answer within 0.2 s"


def test_the_rest_stays_due_when_the_time_is_over(stores: Stores) -> None:
    with WebHook() as hook:
        put(stores, "a")
        put(stores, "b")
        assert send_due(stores, AT, {"delay": (hook.url,)}, budget_s=0) == Sent()
        assert send(stores, hook.url) == Sent(arrived=2)


def test_an_address_that_is_none_is_given_up_at_once(
    stores: Stores, log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    put(stores)
    [said] = send(stores, "nonsense://hunter2@secret-path", "hunter2 secret-path").given_up[:1]
    assert said.endswith(
        "receiver 1 (nonsense): not an address that Apprise knows: see response.notify in the declaration"
    )
    assert not [secret for secret in SECRETS if secret in "".join([*log.lines, *capfd.readouterr()])]
    assert [one.receiver for one in stores.outbox.all("given up")[0].deliveries] == [
        "receiver 1 (nonsense)",
        "receiver 2 (of no known kind)",
    ]


def test_a_model_that_names_nobody_is_told_of_to_nobody(stores: Stores) -> None:
    put(stores)
    assert send_due(stores, AT, {}) == Sent()
    assert [one.state for one in stores.outbox.all()] == ["no receiver"]


def test_two_that_send_at_once_do_not_send_twice(stores: Stores) -> None:
    put(stores)
    later = AT + timedelta(minutes=5)
    assert len(stores.outbox.claim(AT, later)) == 1
    assert Stores(stores.home).outbox.claim(AT, later) == ()
    with WebHook() as hook:
        assert send(stores, hook.url) == Sent()
        # who claimed it has died
        assert send(stores, hook.url, minutes=5) == Sent(arrived=1)


def test_receivers_are_those_that_the_declarations_name(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    with WebHook() as hook:
        monkeypatch.setattr(notify, "declared_receivers", lambda: {"delay": (hook.url,)})
        put(stores)
        assert send_due(stores, AT) == Sent(arrived=1)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("slack://a/b/c", "receiver 2 (slack)"),
        ("MAILTO://x:y@z", "receiver 2 (mailto)"),
        ("hunter2:secret-path", "receiver 2 (of no known kind)"),
    ],
)
def test_a_receiver_is_named_without_its_address(url: str, name: str) -> None:
    assert receiver_name(2, url) == name
