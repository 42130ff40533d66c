"""The response sensor as a state machine, on a real instance with real runs; between any two steps the program may start anew."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mlops_assets.core.ledger import Approved, Frozen, Rejected, Thawed
from mlops_assets.sensors.response import LOOKS_EVERY_S, response_sensor
from mlops_assets_tests.sensors.patient import FETCHED, Patient, better, day, only
from mlops_assets_tests.serving.factory import small_spec


def test_it_is_on_by_default_and_looks_often() -> None:
    sensor = response_sensor(small_spec())
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == LOOKS_EVERY_S <= 15


@pytest.mark.parametrize("restarting", [False, True])
def test_the_life_of_a_training(patient: Patient, restarting: bool) -> None:
    """Nothing new, new, asked again before it ran, in flight, failed, tried again, succeeded, nothing new."""

    def tick() -> Any:
        if restarting:
            patient.start()
        return patient.tick()

    assert tick() == "no window has been judged yet"
    patient.judge(0)
    patient.judge(1)
    assert tick() == f"{day(1)}: none: nothing is wrong"
    patient.judge(2, decayed=True)

    first = only(tick())
    retrain = patient.decision("retrain")
    assert first.run_key == f"{retrain.id}/1"
    assert first.tags["mlops_assets/trigger"] == "performance"
    assert first.tags["mlops_assets/incidents"] == "delay/performance/1"
    assert first.run_config["ops"]["delay__raw_data"]["config"]["as_of"] == "2013-03-04T00:00:00+00:00"
    assert only(tick()).run_key == first.run_key, "a request that was lost is made again, and no other"

    run = patient.begin(first)
    for _ in range(2):
        assert tick() == f"{day(2)}: none: retrain of {retrain.id} is not over yet"
    assert patient.decision("retrain").runs == (run,)
    assert patient.decision("retrain").running
    patient.instance.delete_run(run)

    patient.fate = "crash"
    patient.launch(first)
    second = only(tick())
    assert second.run_key == f"{retrain.id}/2"
    assert [one.cause for one in patient.record.open_incidents] == ["performance", "run:lifecycle"]

    patient.fate = "release"
    patient.launch(second)
    assert isinstance(tick(), str)
    done = patient.decision("retrain")
    assert (done.outcome, done.attempts, patient.champion) == ("done", 2, 3)
    performance, runs = patient.record.incidents
    assert performance.mitigated_by == "version 3 serves with release 3: version 3 passed"
    assert performance.first_bad_at == FETCHED + timedelta(minutes=2)
    assert not runs.is_open
    released = patient.record.releases[-1].released
    assert (released.version, released.former, released.strategy, released.automated) == (3, 2, "immediate", True)
    assert isinstance(tick(), str)
    assert len(patient.plans) == 3
    assert patient.stores.ledger.verify().problem is None


def test_what_was_released_before_is_in_the_ledger_too(patient: Patient) -> None:
    patient.tick()
    assert [(one.released.version, one.released.automated) for one in patient.record.releases] == [
        (1, False),
        (2, False),
    ]


def test_it_gives_up_after_the_declared_attempts(patient: Patient) -> None:
    patient.judge(0, decayed=True)
    patient.judge(1, decayed=True)
    patient.fate = "crash"
    asked = patient.live()
    assert [type(one) for one in asked] == [list, list, list, str]
    done = patient.decision("retrain")
    assert (done.outcome, done.attempts) == ("abandoned", 3)
    assert done.detail.endswith("out of memory")
    [incident] = [one for one in patient.record.open_incidents if one.cause == "run:lifecycle"]
    assert incident.times_found == 3
    assert any("gave up" in one.notice.title for one in patient.stores.outbox.all())
    patient.judge(2)
    assert isinstance(patient.tick(), str), "the cooldown counts what was tried"


@pytest.mark.parametrize(
    ("fate", "outcome"), [("refused", "refused"), ("not better", "refused"), ("same", "unchanged")]
)
def test_what_is_not_released_keeps_the_champion(patient: Patient, fate: str, outcome: str) -> None:
    patient.judge(0, decayed=True)
    patient.judge(1, decayed=True)
    patient.fate = fate
    patient.live()
    assert patient.decision("retrain").outcome == outcome
    assert patient.champion == 2
    causes = {one.cause for one in patient.record.open_incidents}
    assert causes == ({"performance", "gates"} if outcome == "refused" else {"performance"})
    assert len(patient.record.refusals) == (outcome == "refused")


def test_a_release_ends_the_incident_of_the_gates(patient: Patient) -> None:
    patient.judge(1, decayed=True)
    patient.judge(2, decayed=True)
    patient.fate = "refused"
    patient.live()
    assert "gates" in {one.cause for one in patient.record.open_incidents}
    patient.fate = "release"
    patient.judge(30, decayed=True)
    patient.live()
    assert patient.champion == 3
    assert "gates" not in {one.cause for one in patient.record.open_incidents}


def test_a_rollback_is_done_at_once_and_waits_for_nobody(patient: Patient) -> None:
    patient.judge(0)
    patient.judge(1, decayed=True, former=better(1))
    assert isinstance(patient.tick(), str)
    done = patient.decision("roll back")
    assert (done.outcome, done.attempts, patient.champion) == ("done", 1, 1)
    assert "version 1 serves with release 3" in done.detail
    assert patient.record.incidents[0].mitigated_at is not None
    assert patient.record.releases[-1].released.strategy == "rollback"
    patient.live()
    assert len(patient.plans) == 3


def test_only_the_newest_window_asks_for_work(patient: Patient) -> None:
    """Of a backlog the incidents are told, and one thing is done: about what is so now."""
    patient.judge(0, decayed=True, former=better(1))
    patient.judge(1)
    patient.judge(2)
    assert isinstance(patient.tick(), str)
    assert patient.champion == 2
    assert [one.what.action for one in patient.record.decisions] == ["observe", "none", "none"]
    assert patient.record.decisions[0].what.reason.startswith("roll back, if this were the newest window: ")
    assert [one.what.window for one in patient.record.decisions] == [day(0), day(1), day(2)]


def test_labels_that_come_late_are_looked_at_without_a_new_window(patient: Patient) -> None:
    patient.judge(0)
    patient.judge(1)
    assert isinstance(patient.tick(), str)
    patient.judge(1, decayed=True)
    assert only(patient.tick()).run_key == f"{patient.decision('retrain').id}/1"


@pytest.mark.parametrize("restarting", [False, True])
def test_nothing_is_done_while_it_is_frozen(patient: Patient, restarting: bool) -> None:
    patient.write("delay", Frozen("a person wants to look"))
    patient.judge(0)
    patient.judge(1, decayed=True)
    [said] = patient.live(restarting)
    assert said == f"{day(1)}: none: automation is frozen: a person wants to look"
    assert [one.cause for one in patient.record.open_incidents] == ["performance"], "looking goes on"
    patient.write("delay", Thawed("looked"))
    patient.live(restarting)
    assert patient.champion == 3


def test_a_freeze_between_decision_and_attempt_holds_it_and_what_has_begun_is_settled(patient: Patient) -> None:
    patient.judge(1, decayed=True)
    patient.judge(2, decayed=True)
    request = only(patient.tick())
    patient.write("delay", Frozen("wait"))
    assert isinstance(patient.tick(), str)
    patient.fate = "crash"
    patient.launch(request)
    assert isinstance(patient.tick(), str), "the second attempt waits for the thaw"
    assert patient.decision("retrain").outcome == "failed"
    patient.write("delay", Thawed("go"))
    assert only(patient.tick()).run_key == f"{patient.decision('retrain').id}/2"


@pytest.mark.parametrize("restarting", [False, True])
def test_what_needs_leave_waits_for_it(tmp_path: Path, instance: dg.DagsterInstance, restarting: bool) -> None:
    patient = Patient(tmp_path, instance, actions={"rollback": "approve"})
    patient.judge(0)
    patient.judge(1, decayed=True, former=better(1))
    [said] = patient.live(restarting)
    waiting = patient.decision("roll back")
    assert said == f"roll back ({waiting.id}) waits: mlops-assets approve {waiting.id} --reason ..., or reject"
    assert patient.champion == 2
    assert any("may it roll back?" in one.notice.title for one in patient.stores.outbox.all())
    patient.write(waiting.id, Approved("go"))
    patient.live(restarting)
    assert (patient.champion, patient.decision("roll back").outcome) == (1, "done")
    assert not patient.record.releases[-1].released.automated


def test_what_is_rejected_is_not_done(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    patient = Patient(tmp_path, instance, actions={"rollback": "approve", "retrain": "off"})
    patient.judge(0)
    patient.judge(1, decayed=True, former=better(1))
    patient.live()
    patient.write(patient.decision("roll back").id, Rejected("no"))
    patient.live()
    assert patient.champion == 2
    patient.judge(2, decayed=True, former=better(1))
    patient.live()
    assert patient.decision("roll back").rejected_by == "user:ann", "and is not asked for again"


def test_runs_that_nobody_asked_for_are_watched_too(patient: Patient) -> None:
    patient.judge(0)
    patient.fate = "crash"
    patient.execute()
    patient.execute()
    patient.tick()
    [incident] = patient.record.open_incidents
    assert (incident.cause, incident.times_found) == ("run:lifecycle", 2)
    assert "out of memory" in incident.title
    patient.fate = "refused"
    patient.execute()
    patient.tick()
    assert not patient.record.open_incidents, "a refusal is an answer, not an accident"


def test_a_release_by_hand_is_told_of(patient: Patient) -> None:
    patient.judge(0)
    patient.execute()
    patient.tick()
    assert [one.released.automated for one in patient.record.releases] == [False, False, False]
    assert patient.record.releases[-1].released.version == 3


def test_a_run_that_a_person_cancels_is_not_tried_again(patient: Patient) -> None:
    patient.judge(1, decayed=True)
    patient.judge(2, decayed=True)
    run = patient.instance.get_run_by_id(patient.begin(only(patient.tick())))
    assert run is not None
    patient.instance.report_run_canceling(run)
    patient.tick()
    assert patient.decision("retrain").running
    patient.instance.report_run_canceled(run)
    patient.live()
    decision = patient.decision("retrain")
    assert (decision.outcome, decision.detail, decision.runs) == ("abandoned", "the run was cancelled", (run.run_id,))
    assert {one.cause for one in patient.record.open_incidents} == {"performance"}


def test_what_is_known_of_a_run_that_died_is_its_last_message(patient: Patient) -> None:
    patient.judge(1, decayed=True)
    patient.judge(2, decayed=True)
    run = patient.instance.get_run_by_id(patient.begin(only(patient.tick())))
    assert run is not None
    patient.instance.report_run_failed(run, "the code server that ran it is gone")
    assert only(patient.tick()).run_key == f"{patient.decision('retrain').id}/2"
    assert "the code server that ran it is gone" in patient.decision("retrain").detail
