"""Trainings by the calendar: one a date, through the same decisions, and none while the model is frozen or retired."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from mlops_assets.core.ledger import Approved, Decided, Frozen, Retired
from mlops_assets.core.rollout import Entrant, Origin, Release, trial
from mlops_assets.core.spec.release import ReleaseSpec
from mlops_assets.sensors.calendar import calendar_schedules
from mlops_assets_tests.sensors.patient import Patient, PatientResource
from mlops_assets_tests.serving.factory import small_spec

MONDAY = datetime(2024, 3, 4, 3, tzinfo=UTC)


@pytest.fixture
def planned(tmp_path: Path, instance: dg.DagsterInstance) -> Patient:
    return Patient(tmp_path, instance, schedule="0 3 * * 1")


def tick(patient: Patient, at: datetime = MONDAY) -> dg.RunRequest | str:
    [schedule] = calendar_schedules(patient.spec)
    resources = {"stores": PatientResource(home=str(patient.home.root))}
    with dg.build_schedule_context(patient.instance, at, resources=resources) as context:
        data = schedule.evaluate_tick(context)
    return next(iter(data.run_requests or []), None) or data.skip_message or ""


def test_only_who_wants_one_has_one_and_it_is_on() -> None:
    assert calendar_schedules(small_spec()) == []
    [schedule] = calendar_schedules(small_spec(response={"schedule": "0 3 * * 1"}))
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert schedule.job_name == "delay_lifecycle"


def test_a_date_is_one_training_that_the_response_settles(planned: Patient) -> None:
    planned.judge(1)
    request = tick(planned)
    assert isinstance(request, dg.RunRequest)
    assert request.tags["mlops_assets/trigger"] == "schedule"
    assert request.run_config["ops"]["delay__raw_data"]["config"] == {"trigger": "schedule"}
    again = tick(planned)
    assert isinstance(again, dg.RunRequest)
    assert again.run_key == request.run_key, "a tick that was interrupted asks for the same run"
    assert isinstance(planned.tick(), str), "the sensor does not start it as well"
    planned.launch(request)
    planned.live()
    done = planned.decision("retrain")
    assert (done.outcome, done.actor, planned.champion) == ("done", "schedule:delay_calendar", 3)
    assert planned.record.releases[-1].released.automated
    assert tick(planned) == f"{done.id} is over: done"


def test_a_date_that_comes_during_a_trial_is_left_out(planned: Patient) -> None:
    """The new version once took the place of the one on trial, which nobody had judged yet."""
    planned.spec = planned.spec.model_copy(update={"release": ReleaseSpec(strategy="shadow")})
    tried = Entrant(Release(3, "sha256:3"), (), None, MONDAY)
    origin = Origin("r-3", "it passed", "run:x", MONDAY)
    planned.stores.releases.publish(trial(planned.plans[-1], tried, "shadow", 1.0, origin, "salt"))
    assert tick(planned) == "version 3 is on trial: the next date is waited for"
    assert not planned.record.decisions


@pytest.mark.parametrize("fact", [Frozen("wait"), Retired("old")])
def test_nothing_is_trained_while_it_is_frozen_or_retired(planned: Patient, fact: Frozen | Retired) -> None:
    planned.write("delay", fact)
    assert str(tick(planned)).endswith(fact.reason)
    assert not planned.record.decisions


def test_one_training_at_a_time(planned: Patient) -> None:
    planned.write("d-1", Decided("retrain", "auto", "it has decayed"))
    assert tick(planned) == "a training is under way or wanted already: d-1"


def test_where_trainings_need_leave_the_date_waits_for_it(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    patient = Patient(tmp_path, instance, schedule="0 3 * * 1", actions={"retrain": "approve"})
    assert str(tick(patient)).endswith(" waits")
    patient.judge(1)
    patient.live()
    assert patient.champion == 2
    patient.write(patient.decision("retrain").id, Approved("go"))
    patient.live()
    assert patient.champion == 3
