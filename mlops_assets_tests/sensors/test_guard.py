"""A fresh release that fails is taken back at once; what a person has forbidden or frozen is left to a person."""

import os
import socket
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from mlops_assets.core.guard import ServiceVerdict
from mlops_assets.core.ledger import Approved, Decided, Frozen, Started
from mlops_assets.core.rollout import Entrant, Origin, Release, trial
from mlops_assets.core.service_counts import ServiceCounts
from mlops_assets.operations import confirm, guarding
from mlops_assets.operations.guard import GuardFinding
from mlops_assets.operations.mending import Mending
from mlops_assets.sensors.guard import guard_sensor
from mlops_assets.stores.workers import WorkerState
from mlops_assets_tests.sensors.patient import Patient, PatientResource
from mlops_assets_tests.serving.factory import corrupt, small_model

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


def test_a_champion_that_is_lost_everywhere_is_gone_back_from_and_its_challenger_is_spared(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
):
    """A worker that was started again could not answer until a person came."""
    monkeypatch.setattr(guarding, "watch_release", lambda *given: None)
    monkeypatch.setattr(confirm, "wait_until_live", lambda *given: 1)
    spared = Patient(patient.home.root / "spared", patient.instance)
    spared.release(3, "user:test")
    plan, now = spared.plans[-1], datetime.now(UTC)
    model = small_model(version=4)
    bundle = spared.stores.bundles.put(model.manifest, model.files)
    entrant = Entrant(Release(4, bundle), model.features, None, model.manifest.as_of)
    origin = Origin("trial", "the gates passed", "user:test", now)
    spared.stores.releases.publish(trial(plan, entrant, "shadow", 1.0, origin, "salt"))
    corrupt(spared.home, plan.champion.bundle)
    said, about = {"delay": "BundleError: damaged"}, {"delay": 4}
    state = WorkerState("w", os.getpid(), socket.gethostname(), now, now + timedelta(hours=1), {}, said, about)
    spared.stores.workers.report(state)
    assert "version 3 cannot be loaded, and no copy of its bundle is whole" in tick(spared)
    newest = spared.plans[-1]
    assert (newest.champion.version, newest.challenger, newest.withdrawn) == (2, None, (3,))
    [incident] = spared.record.incidents
    assert (incident.cause, incident.severity) == ("service", "critical")
    assert spared.decision("roll back").what.details == {"instead_of": "3"}
    assert spared.decision("roll back").outcome == "done"
    tick(spared)
    assert len(spared.plans) == newest.release


def test_who_has_taken_the_place_of_a_lost_champion_meanwhile_stays(patient: Patient):
    """Copies of version 2 were looked for while a person released version 3, and it was version 3 that was withdrawn."""
    lost = Mending("version 2 cannot be loaded", True, patient.plans[-1].release, 2)
    patient.release(3, "user:test")
    guarding.replace_lost(patient.spec, patient.stores, lost, lambda: datetime.now(UTC), "sensor:delay_guard")
    assert (patient.champion, patient.plans[-1].withdrawn, patient.record.decisions) == (3, (), ())
