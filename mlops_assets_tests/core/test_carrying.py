"""The next step of a decision, for every state that it and its runs can be in."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.carrying import (
    Begin,
    Gate,
    KnownRun,
    Note,
    Settle,
    Step,
    Wait,
    found,
    held_back,
    next_step,
    of_runs,
    run_outcome,
    settled,
)
from mlops_assets.core.ledger import (
    Approved,
    Decision,
    Ended,
    Entry,
    Fact,
    Frozen,
    Joined,
    Mitigated,
    Opened,
    Record,
    Refused,
    Rejected,
    Resolved,
    Retired,
    Started,
    Thawed,
)
from mlops_assets.core.ledger_fold import fold
from mlops_assets_tests.core.ledger_examples import AT, decided, entry, opened

RETRAIN = decided(details={"trigger": "drift"})
BACK = decided("roll back", details={"version": "2"})
NOT_BETTER, BAD_AUC = Gate("brier_not_worse_than_champion", "0.17 > 0.16"), Gate("roc_auc_at_least", "0.6 < 0.7")
NOW = AT + timedelta(minutes=1)


def decision(*facts: Fact) -> Decision:
    [one] = fold("delay", [entry("d-1", fact, minute) for minute, fact in enumerate(facts)]).decisions
    return one


def run(state: str, attempt: int = 1, **changes: Any) -> KnownRun:
    return KnownRun(f"run-{attempt}", state, attempt, **changes)  # type: ignore[arg-type]


FAILED, FAILED_2 = run("failed", error="out of memory"), run("failed", 2)

STATES: dict[str, tuple[tuple[Fact, ...], tuple[KnownRun, ...], Step]] = {
    "new": ((RETRAIN,), (), Begin(1)),
    "asked for, not yet noted": ((RETRAIN,), (run("under way"),), Note(1, "run-1")),
    "in flight": ((RETRAIN, Started(1, "run-1")), (run("under way"),), Wait("run run-1 is under way")),
    "succeeded unseen": (
        (RETRAIN,),
        (run("succeeded"),),
        Settle("unchanged", 1, "run-1", "the champion is that very model"),
    ),
    "failed": ((RETRAIN, Started(1, "run-1")), (FAILED,), Settle("failed", 1, "run-1", "out of memory")),
    "to be tried again": ((RETRAIN, Started(1), Ended("failed", 1, "run-1")), (FAILED,), Begin(2)),
    "tried again": ((RETRAIN, Started(1), Ended("failed", 1)), (FAILED, run("under way", 2)), Note(2, "run-2")),
    "failed again": (
        (RETRAIN, Ended("failed", 1), Started(2)),
        (FAILED, FAILED_2),
        Settle("abandoned", 2, "run-2", "the run failed"),
    ),
    "noted as failed only": ((RETRAIN, Ended("failed", 2, "", "oh")), (), Settle("abandoned", 2, "", "oh")),
    "cancelled": ((RETRAIN, Started(1)), (run("cancelled"),), Settle("abandoned", 1, "run-1", "the run was cancelled")),
    "given up": ((RETRAIN, Ended("abandoned", 2)), (FAILED, FAILED_2), Wait("it is over")),
    "not better": (
        (RETRAIN,),
        (run("failed", refused_by=(NOT_BETTER,)),),
        Settle("unchanged", 1, "run-1", "brier_not_worse_than_champion: 0.17 > 0.16"),
    ),
    "started elsewhere": ((RETRAIN, Started(1)), (), Wait("its run has not appeared yet")),
    "waits for approval": ((decided("retrain", "approve"),), (), Wait("it waits for approval")),
    "approved": ((decided("retrain", "approve"), Approved("yes")), (), Begin(1)),
    "rejected": ((decided("retrain", "approve"), Rejected("no")), (), Wait("it is over")),
    "switched off": ((decided("retrain", "off"),), (), Wait("it is over")),
    "asks for nothing": ((decided("alert"),), (), Wait("it is over")),
    "a rollback": ((BACK,), (), Begin(1)),
    "a rollback that was interrupted": ((BACK, Started(1)), (), Begin(1)),
    "a rollback that failed": ((BACK, Started(1), Ended("failed", 1)), (), Begin(2)),
    "a rollback that failed too often": ((BACK, Ended("failed", 2, "", "no")), (), Settle("abandoned", 2, "", "no")),
    "a rollback that is done": ((BACK, Started(1), Ended("done", 1)), (), Wait("it is over")),
}


@pytest.mark.parametrize("state", STATES)
def test_the_next_step(state: str) -> None:
    facts, runs, step = STATES[state]
    assert next_step(decision(*facts), runs, attempts=2, now=NOW) == step


def test_a_release_whose_run_died_is_finished_by_the_next_attempt() -> None:
    made = "version 4 passed"
    first = next_step(decision(RETRAIN), [FAILED], attempts=2, now=NOW, released=made)
    assert first == Settle("failed", 1, "run-1", "out of memory")
    again = decision(RETRAIN, Ended("failed", 1, "run-1"))
    second = next_step(again, [FAILED, run("succeeded", 2)], attempts=2, now=NOW, released=made)
    assert second == Settle("done", 2, "run-2", made)


def test_a_version_on_trial_ends_the_decision_and_mitigates_nothing() -> None:
    tried = "version 3 is tried beside version 2 with release 5"
    one = decision(RETRAIN, Started(1))
    end = next_step(one, [run("succeeded")], attempts=2, now=NOW, released=tried, on_trial=True)
    assert end == Settle("on trial", 1, "run-1", tried)
    assert isinstance(end, Settle)
    assert [type(fact) for _, fact, _ in settled(record_of(entry("i-1", opened())), one, end)] == [Ended]
    assert decision(RETRAIN, Started(1), Ended("on trial", 1)).is_final


def test_a_run_that_never_appears_was_an_attempt() -> None:
    late = AT + timedelta(minutes=6)
    lost = "no run of attempt 1 is known"
    started = decision(RETRAIN, Started(1))
    assert next_step(started, (), attempts=2, now=late) == Settle("failed", 1, "", lost)
    assert next_step(started, (), attempts=1, now=late) == Settle("abandoned", 1, "", lost)


def test_what_is_held_back_begins_nothing_and_is_ended_all_the_same() -> None:
    held: dict[str, Any] = {"attempts": 2, "now": NOW, "held": "frozen"}
    assert next_step(decision(RETRAIN), (), **held) == Wait("frozen")
    assert next_step(decision(BACK), (), **held) == Wait("frozen")
    assert next_step(decision(BACK, Started(1)), (), **held) == Begin(1)
    assert next_step(decision(RETRAIN), [FAILED], **held) == Settle("failed", 1, "run-1", "out of memory")
    assert next_step(decision(RETRAIN, Ended("failed", 1)), [FAILED], **held) == Wait("frozen")


@pytest.mark.parametrize(
    ("gates", "trigger", "outcome"),
    [
        ((NOT_BETTER,), "drift", "unchanged"),
        ((NOT_BETTER,), "performance", "refused"),
        ((NOT_BETTER, BAD_AUC), "drift", "refused"),
        ((BAD_AUC,), "drift", "refused"),
    ],
)
def test_a_refusal_is_one_unless_drift_asked_and_nothing_is_better(
    gates: tuple[Gate, ...], trigger: str, outcome: str
) -> None:
    assert run_outcome(run("failed", refused_by=gates), trigger, None)[0] == outcome


@given(st.lists(st.sampled_from(["succeeded", "failed", "lost"]), max_size=6), st.integers(1, 4))
def test_every_decision_comes_to_an_end_within_its_attempts(fates: list[str], attempts: int) -> None:
    """Whatever becomes of the runs, each attempt is begun once and settled once, and then it is over."""
    record = fold("delay", [entry("d-1", RETRAIN)])
    runs: list[KnownRun] = []
    begun: list[int] = []
    for fate in [*fates, *["failed"] * attempts, "failed"]:
        [one] = record.decisions
        step = next_step(one, runs, attempts=attempts, now=NOW)
        if isinstance(step, Wait):
            break
        if isinstance(step, Begin):
            begun.append(step.attempt)
            state = "failed" if fate == "lost" else fate
            runs.append(run(state, step.attempt))
            step = next_step(one, runs, attempts=attempts, now=NOW)
        assert isinstance(step, Settle)
        record = fold("delay", [entry(*line[:2]) for line in settled(record, one, step)], record)
    assert record.decisions[0].is_final
    assert begun == list(range(1, len(begun) + 1))
    assert len(begun) <= attempts


def record_of(*entries: Entry) -> Record:
    return fold("delay", entries)


class TestHeldBack:
    def of(self, name: str, *entries: Entry) -> str | None:
        record = record_of(*entries)
        return held_back(record, next(one for one in record.decisions if one.id == name))

    def test_by_a_freeze_until_it_thaws(self) -> None:
        made, frozen = entry("d-1", BACK), entry("delay", Frozen("too much"))
        assert self.of("d-1", made) is None
        assert self.of("d-1", made, frozen) == "automation is frozen: too much"
        assert self.of("d-1", made, frozen, entry("delay", Thawed("go"))) is None

    def test_by_retirement(self) -> None:
        assert self.of("d-1", entry("d-1", BACK), entry("delay", Retired("old"))) == "the model is out of service: old"

    def test_a_person_is_not(self) -> None:
        by_hand = entry("d-1", BACK, actor="user:ann")
        assert self.of("d-1", by_hand, entry("delay", Frozen("x"))) is None

    def test_a_training_by_what_is_under_way_and_a_rollback_by_nothing(self) -> None:
        training = entry("d-1", RETRAIN), entry("d-1", Started(1, "run-1"))
        assert self.of("d-2", *training, entry("d-2", RETRAIN, 1)) == "retrain of d-1 comes first"
        assert self.of("d-2", *training, entry("d-2", BACK, 1)) is None

    def test_a_training_by_one_that_was_asked_for_before_and_has_not_begun(self) -> None:
        first, second = entry("d-1", RETRAIN), entry("d-2", RETRAIN, 1)
        assert self.of("d-2", first, second) == "retrain of d-1 comes first"
        assert self.of("d-1", first, second) is None
        by_hand = entry("d-2", RETRAIN, 1, actor="user:ann")
        assert self.of("d-2", first, by_hand, entry("delay", Frozen("x"))) is None, "which will not begin"


class TestSettled:
    def after(self, what: Fact, end: Settle, *before: Entry) -> Record:
        record = record_of(*before, entry("d-1", what))
        lines = settled(record, record.decisions[0], end)
        assert len({key for _, _, key in lines}) == len(lines)
        return fold("delay", [entry(subject, fact) for subject, fact, _ in lines], record)

    def test_what_has_helped_mitigates_its_incidents_and_ends_that_of_the_gates(self) -> None:
        incidents = entry("i-1", opened("performance")), entry("i-2", opened("gates"))
        what = decided(incidents=("i-1",))
        record = self.after(what, Settle("done", 1, "run-1", "version 4 passed"), *incidents)
        one, gates = record.incidents
        assert (one.mitigated_by, one.is_open) == ("version 4 passed", True)
        assert not gates.is_open
        assert record.decisions[0].outcome == "done"

    def test_an_incident_of_the_service_is_over_with_its_rollback(self) -> None:
        incident = entry("i-1", opened("service"))
        record = self.after(
            decided("roll back", incidents=("i-1",)), Settle("done", 1, "", "v2 serves again"), incident
        )
        assert record.incidents[0].resolution == "v2 serves again"

    def test_a_refusal_opens_an_incident_that_the_next_one_joins(self) -> None:
        record = self.after(RETRAIN, Settle("refused", 1, "run-1", "too bad"))
        assert record.refusals[0][1] == Refused(None, "too bad")
        assert [one.cause for one in record.open_incidents] == ["gates"]
        again = self.after(RETRAIN, Settle("refused", 1, "run-1", "too bad"), entry("i-1", opened("gates")))
        assert [one.times_found for one in again.incidents] == [2]

    @pytest.mark.parametrize("outcome", ["unchanged", "failed"])
    def test_what_has_changed_nothing_tells_nobody(self, outcome: str) -> None:
        record = self.after(RETRAIN, Settle(outcome, 1), entry("i-1", opened("gates")))  # type: ignore[arg-type]
        assert [(one.mitigated_at, one.times_found) for one in record.open_incidents] == [(None, 1)]
        assert not record.refusals

    def test_a_freeze_freezes_and_mitigates_only_by_going_back(self) -> None:
        incident = entry("i-1", opened("service"))
        only = self.after(decided("freeze", incidents=("i-1",)), Settle("done", 1), incident)
        assert only.frozen == "it has decayed"
        assert only.incidents[0].mitigated_at is None
        back = decided("freeze", incidents=("i-1",), details={"version": "1"})
        assert self.after(back, Settle("done", 1), incident).incidents[0].mitigated_at is not None

    def test_a_change_that_is_given_up_is_an_incident_until_one_succeeds(self) -> None:
        record = self.after(BACK, Settle("abandoned", 3, "", "no worker takes it"))
        [one] = record.open_incidents
        assert (one.cause, one.severity) == ("run:roll back", "critical")
        record = fold("delay", [entry("d-2", BACK)], record)
        lines = settled(record, record.decisions[-1], Settle("done", 1, "", "v1 serves"))
        assert (one.id, Resolved("v1 serves")) in [line[:2] for line in lines]


class TestRuns:
    def lines(self, record: Record, *newest_first: KnownRun) -> list[tuple[str, Fact]]:
        return [line[:2] for line in of_runs(record, "lifecycle", newest_first)]

    def test_failures_are_one_incident_until_a_run_works(self) -> None:
        ok, a, b, c = (
            KnownRun(name, state) for name, state in zip("oabc", ["succeeded", *["failed"] * 3], strict=True)
        )  # type: ignore[arg-type]
        assert self.lines(Record("delay"), ok, a) == []
        lines = self.lines(Record("delay"), b, a, ok)
        assert [type(fact) for _, fact in lines] == [Opened, Joined]
        assert {subject for subject, _ in lines} == {"delay/run:lifecycle/1"}
        record = fold("delay", [entry(subject, fact) for subject, fact in lines])
        assert self.lines(record, b, a, ok) == []
        assert [type(fact) for _, fact in self.lines(record, c, b, a, ok)] == [Joined]
        assert self.lines(record, ok, b, a) == [("delay/run:lifecycle/1", Resolved("run o has worked"))]

    def test_a_refusal_has_worked_and_what_was_cancelled_says_nothing(self) -> None:
        refused, cancelled = run("failed", refused_by=(BAD_AUC,)), run("cancelled")
        assert self.lines(Record("delay"), refused) == []
        assert self.lines(Record("delay"), cancelled) == []
        record = fold("delay", [entry("i-1", opened("run:lifecycle"))])
        assert self.lines(record, cancelled) == []
        assert self.lines(record, refused) == [("i-1", Resolved("run run-1 has worked"))]


def test_one_cause_is_one_incident_and_numbered() -> None:
    subject, fact, key = found(Record("delay"), "service", "it fails", "critical", "r1", first_bad_at=AT)
    assert (subject, key) == ("delay/service/1", "delay/service/1")
    assert isinstance(fact, Opened)
    assert fact.first_bad_at == AT
    record = fold("delay", [entry(subject, fact)])
    assert found(record, "service", "it fails", "critical", "r2")[0] == subject
    record = fold("delay", [entry(subject, Mitigated("v1")), entry(subject, Resolved("over"))], record)
    assert found(record, "service", "it fails", "critical", "r3")[0] == "delay/service/2"
