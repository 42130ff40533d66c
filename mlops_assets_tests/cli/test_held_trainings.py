"""A training that was decided before a trial began waits for its end; one that a person asks for ends it, and says so."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from mlops_assets.cli import verbs
from mlops_assets.cli.verbs import add_verbs
from mlops_assets.core.ledger import Decided
from mlops_assets.core.rollout import Entrant, Origin, Release, ReleasePlan, dismissed, trial
from mlops_assets.core.trials.facts import TrialStepped
from mlops_assets.operations import models
from mlops_assets.operations.held_trainings import waits_for_trial
from mlops_assets.operations.rollouts.advance import Rollouts
from mlops_assets_tests.sensors.patient import Patient, better, only
from mlops_assets_tests.serving.factory import small_model, small_spec

app = typer.Typer()
add_verbs(app)


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Version 2 serves, and version 4 is on trial beside it; a training was decided before, and waits for leave."""
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    with dg.DagsterInstance.ephemeral() as instance:
        patient = Patient(tmp_path, instance)
        patient.spec = small_spec(release={"strategy": "shadow"})
        patient.start()
        monkeypatch.setattr(models, "read_declarations", lambda _folder=None: ({"delay": patient.spec}, ()))
        monkeypatch.setattr(verbs, "_stores", lambda: patient.stores)
        patient.write("d-1", Decided("retrain", "approve", "it has decayed"), "sensor:delay_response")
        put_on_trial(patient, 4)
        yield patient


def origin(name: str, by: str = "run:by hand") -> Origin:
    return Origin(name, "the gates passed", by, datetime.now(UTC))


def put_on_trial(patient: Patient, version: int, by: str = "run:by hand") -> ReleasePlan:
    model = small_model(version=version)
    bundle = patient.stores.bundles.put(model.manifest, model.files)
    entrant = Entrant(Release(version, bundle), model.features, None, model.manifest.as_of)
    before = patient.plans[-1]
    if before.challenger is not None:
        patient.stores.releases.publish(dismissed(before, origin(f"end {version}"), withdraw=False))
    plan = trial(patient.plans[-1], entrant, "shadow", 1.0, origin(f"trial {version}", by), "salt")
    patient.stores.releases.publish(plan)
    return plan


def said(*words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--reason", "because"])


def test_with_leave_it_waits_until_the_trial_is_over(patient: Patient):
    """A training that was approved while a version was on trial put another in its place, and nobody was told."""
    output = said("approve", "d-1").output
    assert "retrain of delay (d-1) is approved; it waits: version 4 is on trial, and its trial comes first" in output
    assert patient.tick() == (
        "retrain (d-1) waits: version 4 is on trial, and its trial comes first: see `mlops-assets rollouts delay`"
    )
    patient.stores.releases.publish(dismissed(patient.plans[-1], origin("end"), withdraw=True))
    assert only(patient.tick()).run_key == "d-1/1"


def test_its_own_trial_holds_it_not_up(patient: Patient):
    """What an attempt has put on trial before it failed is finished by the next."""
    said("approve", "d-1")
    patient.stores.releases.publish(dismissed(patient.plans[-1], origin("end"), withdraw=True))
    run = patient.begin(only(patient.tick()))
    patient.tick()
    put_on_trial(patient, 5, f"run:{run}")
    decision = patient.decision("retrain")
    assert decision.runs == (run,)
    assert waits_for_trial(patient.spec, patient.stores, decision) is None
    put_on_trial(patient, 6)
    assert waits_for_trial(patient.spec, patient.stores, decision) is not None


def test_one_that_a_person_asks_for_says_what_becomes_of_the_trial(patient: Patient):
    said("reject", "d-1")
    result = said("retrain", "delay")
    assert result.exit_code == 0, result.output
    assert "version 4 is on trial, until the new candidate has passed its gates and takes its place" in result.output
    assert only(patient.tick()).tags["mlops_assets/trigger"] == "hand"
    rollouts = Rollouts(patient.spec, patient.stores, lambda: datetime.now(UTC), "sensor:delay_rollout")
    rollouts.advance()
    put_on_trial(patient, 5)
    rollouts.advance()
    steps = [line.entry.fact for line in patient.stores.ledger.entries("delay", kinds=("trial stepped",))]
    assert [one.step for one in steps if isinstance(one, TrialStepped)] == ["superseded"]
    assert isinstance(steps[0], TrialStepped)
    assert steps[0].reason == "version 5 is tried in its place since release 5 or before: the gates passed"


@pytest.mark.parametrize("has_leave", [True, False])
def test_one_that_a_person_asks_for_goes_before_one_that_the_trial_holds(patient: Patient, has_leave: bool):
    """For the length of the trial it was refused, as if the one that was held were about to begin."""
    if has_leave:
        said("approve", "d-1")
    result = said("retrain", "delay")
    assert result.exit_code == 0, result.output
    request = only(patient.tick())
    assert (request.tags["mlops_assets/trigger"], request.run_key == "d-1/1") == ("hand", False)
    again = said("retrain", "delay")
    assert again.exit_code == 1
    assert "a training is wanted already" in again.output


def test_one_that_the_trial_holds_keeps_nothing_else_from_being_done(patient: Patient):
    patient.judge(1)
    patient.judge(2, decayed=True, former=better(1))
    patient.live()
    assert (patient.decision("roll back").outcome, patient.champion) == ("done", 1)
    assert not patient.decision("retrain").is_final
