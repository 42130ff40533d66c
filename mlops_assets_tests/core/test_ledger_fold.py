"""What follows from the facts of a ledger."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.ledger import (
    SEVERITIES,
    Acknowledged,
    Approved,
    Decision,
    Ended,
    Entry,
    Fact,
    Frozen,
    Incident,
    Joined,
    Mitigated,
    Outcome,
    Record,
    Refused,
    Rejected,
    Released,
    Resolved,
    Retired,
    Started,
    Thawed,
)
from mlops_assets.core.ledger_fold import fold, with_entry
from mlops_assets_tests.core.ledger_examples import AT, decided, entries, entry, opened


def folded(*them: Entry) -> Record:
    return fold("delay", them)


def incident(*facts: Fact) -> Incident:
    [one] = folded(*(entry("i-1", fact, minute) for minute, fact in enumerate(facts))).incidents
    return one


def decision(*facts: Fact) -> Decision:
    [one] = folded(*(entry("d-1", fact, minute) for minute, fact in enumerate(facts))).decisions
    return one


@given(st.lists(entries, max_size=30), st.data())
def test_folding_in_pieces_is_folding_the_whole(them: list[Entry], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(them)))
    assert fold("delay", them[cut:], fold("delay", them[:cut])) == fold("delay", them)
    record = Record("delay")
    for one in them:
        record = with_entry(record, one)
    assert record == fold("delay", them)


@given(st.lists(entries, max_size=30))
def test_what_is_unchanged_stays_the_same_object(them: list[Entry]) -> None:
    """`notices_for` and the tables for SQL look at what is not the same object any more."""
    before = fold("delay", them)
    later = with_entry(before, entry("i-new", opened()))
    assert all(one is other for one, other in zip(before.incidents, later.incidents, strict=False))
    assert all(one is other for one, other in zip(before.decisions, later.decisions, strict=True))


@given(st.lists(entries, max_size=30))
def test_a_record_keeps_its_promises(them: list[Entry]) -> None:
    record = fold("delay", them)
    assert len({one.id for one in record.incidents}) == len(record.incidents)
    assert set(record.open_incidents) == {one for one in record.incidents if one.resolved_at is None}
    for one in record.incidents:
        assert len(set(one.windows)) == len(one.windows)
    for one in record.decisions:
        assert not (one.is_final and one.may_start)
        assert not (one.waits_for_approval and one.may_start)
    assert (record.frozen is None) == (record.frozen_at is None)


@given(entries)
def test_a_fact_reads_back_as_it_was_written(one: Entry) -> None:
    assert msgspec.json.decode(msgspec.json.encode(one.fact), type=Fact) == one.fact  # type: ignore[arg-type]


class TestIncident:
    def test_it_is_found_under_its_cause_while_it_is_open(self) -> None:
        record = folded(entry("i-1", opened("feed:temp")), entry("i-2", opened("performance")))
        found = record.incident_of("performance")
        assert found is not None
        assert found.id == "i-2"
        record = with_entry(record, entry("i-2", Resolved("it is well again")))
        assert record.incident_of("performance") is None
        assert [one.id for one in record.open_incidents] == ["i-1"]

    def test_what_is_found_again_joins_it(self) -> None:
        one = incident(opened(window="w1", evidence=("a",)), Joined("info", "w2"), Joined("info", "w2", ("b",)))
        assert (one.times_found, one.windows, one.evidence) == (3, ("w1", "w2"), ("b",))

    @pytest.mark.parametrize("first", SEVERITIES)
    @pytest.mark.parametrize("later", SEVERITIES)
    def test_it_never_becomes_less_grave(self, first: str, later: str) -> None:
        one = incident(opened(severity=first), Joined(later))  # type: ignore[arg-type]
        assert SEVERITIES.index(one.severity) == max(SEVERITIES.index(first), SEVERITIES.index(later))  # type: ignore[arg-type]

    def test_its_steps_keep_their_times(self) -> None:
        steps = (Acknowledged("I see"), Mitigated("imputed", "d-1"), Mitigated("again"), Resolved("the feed is back"))
        one = incident(opened(), *steps)
        assert one.acknowledged_by == "sensor:delay_response"
        assert (one.mitigated_by, one.resolution) == ("imputed", "the feed is back")
        assert one.acknowledged_at is not None
        assert one.mitigated_at is not None
        assert one.resolved_at is not None
        assert AT == one.detected_at < one.acknowledged_at < one.mitigated_at < one.resolved_at
        assert not one.is_open


class TestDecision:
    def test_one_that_is_automatic_may_start_at_once(self) -> None:
        one = decision(decided())
        assert one.may_start
        assert not one.waits_for_approval

    def test_one_that_needs_a_person_waits_for_the_answer(self) -> None:
        asked = decision(decided(mode="approve"))
        assert (asked.waits_for_approval, asked.may_start, asked.is_final) == (True, False, False)
        allowed = decision(decided(mode="approve"), Approved("go on"))
        assert (allowed.waits_for_approval, allowed.may_start) == (False, True)
        assert (allowed.approved_by, allowed.answer) == ("sensor:delay_response", "go on")
        forbidden = decision(decided(mode="approve"), Rejected("no"))
        assert (forbidden.waits_for_approval, forbidden.may_start, forbidden.is_final) == (False, False, True)

    def test_one_that_is_off_is_only_told(self) -> None:
        assert decision(decided(mode="off")).is_final

    def test_one_that_runs_is_not_started_again(self) -> None:
        one = decision(decided(), Started(1, "run-1"))
        assert (one.running, one.may_start, one.runs) == (True, False, ("run-1",))

    def test_after_a_failure_another_attempt_may_follow(self) -> None:
        one = decision(decided(), Started(1, "run-1"), Ended("failed", 1, "run-1", "no disk"))
        assert (one.may_start, one.is_final, one.detail) == (True, False, "no disk")
        again = decision(decided(), Started(1, "run-1"), Ended("failed", 1, "run-1"), Started(2, "run-2"))
        assert (again.running, again.attempts, again.outcome, again.runs) == (True, 2, None, ("run-1", "run-2"))

    @pytest.mark.parametrize("outcome", ["done", "unchanged", "refused", "abandoned"])
    def test_other_outcomes_are_final(self, outcome: Outcome) -> None:
        one = decision(decided(), Started(1), Ended(outcome, 1))
        assert one.is_final
        assert not one.may_start


class TestModel:
    def test_releases_and_refusals_are_kept_in_order(self) -> None:
        first, second = (Released(n, n, n - 1 or None, "blue-green", True, "better") for n in (1, 2))
        record = folded(entry("delay", first), entry("delay", Refused(3, "worse")), entry("delay", second, now=AT))
        assert [(one.released.version, one.now) for one in record.releases] == [(1, None), (2, AT)]
        assert record.refusals == ((None, Refused(3, "worse")),)

    def test_it_is_frozen_until_it_is_thawed(self) -> None:
        record = folded(entry("delay", Frozen("three incidents in a day")), entry("delay", Frozen("still"), 5))
        assert (record.frozen, record.frozen_at) == ("still", AT)
        record = with_entry(record, entry("delay", Thawed("mended"), 6))
        assert (record.frozen, record.frozen_at) == (None, None)

    def test_it_is_retired_until_it_is_released_again(self) -> None:
        record = folded(entry("delay", Retired("replaced")))
        assert record.retired == "replaced"
        assert with_entry(record, entry("delay", Released(2, 2, None, "direct", False, "back"))).retired is None

    def test_facts_about_what_was_never_opened_say_nothing(self) -> None:
        assert folded(entry("i-1", Joined("critical")), entry("d-1", Ended("done", 1))) == Record("delay")
