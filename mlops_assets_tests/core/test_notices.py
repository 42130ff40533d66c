"""What people hear of, and that they hear of it once."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.ledger import (
    Acknowledged,
    Ended,
    Entry,
    Fact,
    Frozen,
    Joined,
    Mitigated,
    Record,
    Resolved,
    Started,
    Thawed,
)
from mlops_assets.core.ledger_fold import fold, with_entry
from mlops_assets.core.notices import Notice, notices_for
from mlops_assets_tests.core.ledger_examples import decided, entries, entry, opened


def told(*them: Entry) -> list[Notice]:
    """Everything that is said when the entries come one after the other."""
    records = [Record("delay")]
    for one in them:
        records.append(with_entry(records[-1], one))
    return [notice for before, after in pairwise(records) for notice in notices_for(before, after)]


def steps(subject: str, *facts: Fact) -> list[tuple[str, str]]:
    """Step and severity of what is said of these facts."""
    them = told(*(entry(subject, fact, minute) for minute, fact in enumerate(facts)))
    assert all(one.model == "delay" for one in them)
    return [(one.key.rpartition(":")[2], one.severity) for one in them]


def test_each_step_of_an_incident_is_told_once() -> None:
    facts = (
        opened(),
        Joined("warning", "w2"),
        Acknowledged("I see"),
        Joined("critical", "w3"),
        Joined("critical", "w4"),
        Mitigated("imputed"),
        Joined("warning", "w5"),
        Mitigated("imputed"),
        Resolved("the feed is back"),
    )
    assert steps("i-1", *facts) == [
        ("opened", "warning"),
        ("raised to critical", "critical"),
        ("mitigated", "info"),
        ("resolved", "info"),
    ]


def test_an_incident_of_no_weight_is_told_when_it_gains_some() -> None:
    assert steps("i-1", opened(severity="info"), Joined("info"), Mitigated("x"), Resolved("y")) == []
    assert steps("i-1", opened(severity="info"), Joined("warning")) == [("opened", "warning")]


def test_approval_is_asked_for_once() -> None:
    facts = (decided("roll back", "approve"), Started(1), Ended("failed", 1))
    assert steps("d-1", *facts) == [("approval", "warning")]
    [notice] = told(entry("d-1", decided("roll back", "approve")))
    assert notice.title == "delay: may it roll back?"
    assert "mlops-assets approve d-1" in notice.body


def test_a_decision_that_is_given_up_or_calls_a_person_is_told() -> None:
    assert steps("d-1", decided(), Started(1), Ended("failed", 1), Started(2), Ended("abandoned", 2)) == [
        ("abandoned", "critical")
    ]
    assert steps("d-1", decided("escalate")) == [("escalated", "critical")]
    assert steps("d-1", decided("escalate", "off")) == []
    assert steps("d-1", decided(), Started(1), Ended("done", 1)) == []


def test_each_freeze_is_told() -> None:
    facts = (Frozen("three incidents"), Frozen("again"), Thawed("mended"), Frozen("three incidents"))
    them = told(*(entry("delay", fact, minute) for minute, fact in enumerate(facts)))
    assert [one.title for one in them] == ["delay: automation is frozen"] * 2
    assert len({one.key for one in them}) == 2


@pytest.mark.parametrize("said", ["Incident i-1 of delay", "Evidence: 61 % missing", "Found 1 times"])
def test_a_notice_says_what_was_found(said: str) -> None:
    [notice] = told(entry("i-1", opened(evidence=("61 % missing",))))
    assert said in notice.body
    assert notice.title == "delay: feed:temp is broken"


@given(st.lists(entries, max_size=25))
def test_a_key_tells_one_thing_however_the_entries_are_cut(them: list[Entry]) -> None:
    # a second "opened" of one id begins the incident anew, which no caller does
    seen: set[tuple[str, str]] = set()
    once = []
    for one in them:
        begins = type(one.fact).__name__ in ("Opened", "Decided")
        if not (begins and (one.model, one.subject) in seen):
            once.append(one)
        if begins:
            seen.add((one.model, one.subject))
    mine = [one for one in once if one.model == "delay"]
    keys = [one.key for one in told(*mine) if not is_of_a_freeze(one)]
    assert len(set(keys)) == len(keys)
    whole = {one.key for one in notices_for(Record("delay"), fold("delay", mine)) if not is_of_a_freeze(one)}
    assert {key for key in whole if "raised" not in key} <= set(keys)


def is_of_a_freeze(notice: Notice) -> bool:
    """Freezes are told apart by their times, which are drawn at random here."""
    return notice.key.startswith("frozen:")
