"""A fresh release that fails is taken back at once; what a person has forbidden or frozen is left to a person."""

import dagster as dg
import pytest

from mlops_assets.core.guard import ServiceVerdict
from mlops_assets.core.ledger import Approved, Decided, Frozen, Started
from mlops_assets.core.service_counts import ServiceCounts
from mlops_assets.operations import guarding
from mlops_assets.operations.guard import GuardFinding
from mlops_assets.sensors.guard import guard_sensor
from mlops_assets_tests.sensors.patient import Patient, PatientResource

VERDICT = ServiceVerdict("errors", 20, 60, 0.05, 1e-9, "20 of 60 requests failed")


@pytest.fixture(autouse=True)
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2 fails wherever it is in force."""

    def watched(spec, stores, now):
        plan = stores.releases.current("delay")
        bad = plan.champion.version == 2
        return GuardFinding(plan.release, 2, plan.decided_at, VERDICT, ServiceCounts(), 1) if bad else None

    monkeypatch.setattr(guarding, "watch_release", watched)


def tick(patient: Patient) -> str:
    resources = {"stores": PatientResource(home=str(patient.home.root))}
    with dg.build_sensor_context(patient.instance, resources=resources) as context:
        return guard_sensor(patient.spec).evaluate_tick(context).skip_message or ""


def test_it_is_on_by_default_and_looks_every_five_seconds(patient: Patient):
    sensor = guard_sensor(patient.spec)
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 5


def test_it_goes_back_without_any_window_and_while_a_training_runs(patient: Patient):
    patient.write("d-1", Decided("retrain", "auto", "it has decayed"), "sensor:delay_response")
    patient.write("d-1", Started(1, "some-run"), "sensor:delay_response")
    assert tick(patient) == "20 of 60 requests failed"
    decision = patient.decision("roll back")
    assert (decision.outcome, patient.champion) == ("done", 1)
    assert patient.plans[-1].withdrawn == (2,)
    [incident] = patient.record.incidents
    assert (incident.cause, incident.severity, incident.is_open) == ("service", "critical", False)
    assert incident.first_bad_at == patient.plans[1].decided_at
    assert [one.released.strategy for one in patient.record.releases][-1] == "rollback"
    assert tick(patient) == "no fresh release fails"


def test_it_asks_where_the_declaration_wants_that(patient: Patient):
    asking = Patient(patient.home.root / "asking", patient.instance, actions={"rollback": "approve"})
    tick(asking)
    tick(asking)
    assert asking.champion == 2
    assert asking.decision("roll back").waits_for_approval
    asking.write(asking.decision("roll back").id, Approved("go"))
    tick(asking)
    assert asking.champion == 1


def test_a_frozen_model_is_left_to_a_person(patient: Patient):
    patient.write("delay", Frozen("hands off"))
    tick(patient)
    assert patient.champion == 2
    assert [one.what.action for one in patient.record.decisions] == ["escalate"]
    assert "automation is frozen: hands off" in patient.record.decisions[0].what.reason
    assert any("a person is needed" in one.notice.title for one in patient.stores.outbox.all())
