"""What follows from a release that fails in service."""

from datetime import timedelta
from typing import Any

from mlops_assets.core.ledger import Decided, Ended, Entry, Frozen, Opened, Record, Released, Thawed
from mlops_assets.core.ledger_fold import fold
from mlops_assets.core.service_response import BadRelease, decision_on, respond_to_service
from mlops_assets_tests.core.examples import make_spec
from mlops_assets_tests.core.ledger_examples import AT, decided, entry

NOW = AT + timedelta(days=10)
BAD = BadRelease(3, 3, AT, "20 of 60 requests took longer than 50 ms")


def released(release: int, version: int, days: int) -> Entry:
    fact = Released(release, version, None, "immediate", True, "it passed")
    return entry("delay", fact, now=AT + timedelta(days=days))


RELEASES = released(1, 1, 0), released(2, 2, 3), released(3, 3, 9)


def decision_of(*before: Entry, **response: Any) -> Decided | None:
    lines = respond_to_service(make_spec(response=response), BAD, fold("delay", before), "2024-03-10", NOW)
    if not lines:
        return None
    (_, opened, _), (name, what, _) = lines
    assert isinstance(opened, Opened)
    assert (opened.first_bad_at, opened.window) == (AT, "2024-03-10")
    assert isinstance(what, Decided)
    assert name == decision_on(make_spec(), BAD)
    assert what.incidents == ("delay/service/1",)
    return what


def rolled_back(days: int) -> tuple[Entry, ...]:
    at = AT + timedelta(days=days)
    return entry("d-0", decided("roll back"), now=at), entry("d-0", Ended("done", 1), now=at)


def test_it_goes_back_from_that_very_version() -> None:
    what = decision_of(*RELEASES)
    assert what is not None
    assert (what.action, what.mode, what.details) == ("roll back", "auto", {"instead_of": "3"})
    assert what.evidence == (BAD.reason,)


def test_it_is_decided_once_for_a_release() -> None:
    made = entry(decision_on(make_spec(), BAD), decided("roll back"))
    assert decision_of(*RELEASES, made) is None


def test_a_second_rollback_within_the_cooldown_freezes_and_goes_back() -> None:
    what = decision_of(*RELEASES, *rolled_back(5))
    assert what is not None
    assert (what.action, what.details) == ("freeze", {"version": "2"})


def test_not_where_it_was_long_ago_or_thawed_since_or_freezing_is_off() -> None:
    for before, response in (
        ((*RELEASES, *rolled_back(5)), {"cooldown": "2d"}),
        ((*RELEASES, *rolled_back(5), entry("delay", Thawed("go"), now=AT + timedelta(days=6))), {}),
        ((*RELEASES, *rolled_back(5)), {"actions": {"freeze": "off"}}),
    ):
        what = decision_of(*before, **response)
        assert what is not None
        assert what.action == "roll back"


def test_what_is_frozen_is_left_to_a_person() -> None:
    what = decision_of(*RELEASES, entry("delay", Frozen("hands off")))
    assert what is not None
    assert what.action == "escalate"
    assert not what.asks_for_work


def test_an_open_incident_is_joined() -> None:
    first = respond_to_service(make_spec(), BAD, Record("delay"), None, None)
    record = fold("delay", [entry(subject, fact) for subject, fact, _ in first])
    again = respond_to_service(make_spec(), BadRelease(4, 4, AT, BAD.reason), record, None, None)
    assert again[0][0] == "delay/service/1"
    assert len(fold("delay", [entry(*line[:2]) for line in again], record).incidents) == 1
