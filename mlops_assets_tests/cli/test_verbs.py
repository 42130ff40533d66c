"""What a person types is done, or decided, in their name and with their reason; what cannot be done says what can."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import dagster as dg
import pytest
import typer
import yaml
from click.testing import Result
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

from mlops_assets.cli import verbs
from mlops_assets.cli.verbs import add_verbs
from mlops_assets.core.ledger import Decided, Decision, Frozen
from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.operations import carry_out, models, terms
from mlops_assets.operations.models import COMPONENT
from mlops_assets.operations.terms import Terms
from mlops_assets.stores.database import LedgerUnavailable
from mlops_assets.stores.releases import ReleaseDamaged, ReleaseStore
from mlops_assets_tests.operations.rollback_examples import released, stores_in
from mlops_assets_tests.sensors.patient import Patient, Untracked, better, only
from mlops_assets_tests.serving.factory import small_spec

app = typer.Typer()
add_verbs(app)


@pytest.fixture
def patient(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    with dg.DagsterInstance.ephemeral() as instance:
        patient = Patient(tmp_path, instance, actions={"rollback": "approve"})
        monkeypatch.setattr(models, "read_declarations", lambda _folder=None: ({"delay": patient.spec}, ()))
        monkeypatch.setattr(verbs, "_stores", lambda: patient.stores)
        monkeypatch.setattr(terms, "read_terms", lambda model: Terms.of(patient.spec) if model == "delay" else None)
        yield patient


def said(*words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--reason", "because"])


def ways_back(patient: Patient) -> list[Decision]:
    return [one for one in patient.record.decisions if one.what.action == "roll back"]


def test_a_rollback_is_done_at_once_and_kept_with_its_reason(patient: Patient):
    result = said("rollback", "delay")
    assert result.exit_code == 0, result.output
    assert "roll back: done: version 1 serves with release 3" in result.output
    decision = patient.decision("roll back")
    assert (decision.actor, decision.what.reason, decision.outcome) == ("user:ann", "because", "done")
    assert patient.plans[-1].decided_by == "user:ann"
    assert not patient.record.releases[-1].released.automated
    patient.judge(1)
    patient.live()
    assert len(patient.plans) == 3, "the sensor finds nothing left to do"


def test_the_version_that_answered_is_withdrawn_unless_it_is_kept(patient: Patient):
    assert "version 2 is withdrawn and never returns" in said("rollback", "delay").output
    assert patient.plans[-1].withdrawn == (2,)
    patient.release(3, "user:test")
    result = said("rollback", "delay", "--keep")
    assert result.exit_code == 0, result.output
    assert "roll back (keep former): done: version 1 serves with release 5" in result.output
    assert "withdrawn" not in result.output
    assert (patient.champion, patient.plans[-1].withdrawn) == (1, (2,))
    assert said("rollback", "delay", "--to", "3").exit_code == 0
    assert patient.champion == 3


def test_a_reason_that_says_nothing_is_refused(patient: Patient):
    result = CliRunner().invoke(app, ["rollback", "delay", "--reason", " "])
    assert result.exit_code == 2
    assert "say why" in result.output
    assert patient.champion == 2


def test_a_rollback_says_that_it_is_in_force_where_the_declaration_turns_out_wrong(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
):
    wrong = models.Mistake("delay", "delay/defs.yaml: model 'delay': owner: missing")
    monkeypatch.setattr(models, "read_declarations", lambda _folder=None: ({}, (wrong,)))
    result = said("rollback", "delay")
    assert (result.exit_code, patient.champion) == (1, 1)
    assert "model 'delay': owner: missing" in result.output
    assert "version 1 is in force all the same; the sensor delay_response writes it down" in result.output


def test_a_rollback_of_what_only_the_whole_declaration_tells_is_done_as_well(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(terms, "read_terms", lambda model: None)
    assert said("rollback", "delay").exit_code == 0
    assert (patient.champion, patient.decision("roll back").outcome) == (1, "done")


def test_a_rollback_whose_record_is_out_of_reach_serves_and_is_written_down_by_the_sensor(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
):
    def unreachable(model: str):
        raise LedgerUnavailable("the ledger cannot be used: it is locked")

    with monkeypatch.context() as locked:
        locked.setattr(verbs, "_hand", unreachable)
        result = said("rollback", "delay")
    assert result.exit_code == 1
    assert "version 1 of delay is put back by release 3" in result.output
    assert "it is locked" in result.output
    assert (patient.champion, patient.record.decisions) == (1, ())
    patient.judge(1)
    patient.live()
    assert not ways_back(patient), "the command may still be about to write it down"
    assert [one.released.release for one in patient.record.releases] == [1, 2]
    monkeypatch.setattr(carry_out, "TAKE_UP_AFTER", timedelta(0))
    patient.live()
    decision = patient.decision("roll back")
    assert (decision.id, decision.actor) == (patient.plans[-1].rollout, "user:ann")
    assert (decision.what.reason, decision.outcome, decision.attempts) == ("because", "done", 1)
    assert [(one.released.release, one.released.automated) for one in patient.record.releases][-1:] == [(3, False)]
    patient.live()
    assert (len(patient.plans), len(ways_back(patient))) == (3, 1)


def test_a_rollback_that_the_sensor_has_written_down_first_is_decided_once(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
):
    hand = verbs._hand

    def late(model: str):
        patient.judge(1)
        patient.live()
        return hand(model)

    monkeypatch.setattr(carry_out, "TAKE_UP_AFTER", timedelta(0))
    monkeypatch.setattr(verbs, "_hand", late)
    result = said("rollback", "delay")
    assert result.exit_code == 0, result.output
    assert "roll back: done" in result.output
    assert (len(patient.plans), len(ways_back(patient)), patient.champion) == (3, 1, 1)


@pytest.mark.parametrize(
    ("words", "details"), [((), {}), (("--to", "1"), {"version": "1"}), (("--keep",), {"keep": "former"})]
)
def test_a_rollback_that_died_is_written_down_as_asked_also_when_others_have_followed(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], details: dict[str, str]
):
    def dies(model: str) -> NoReturn:
        raise LedgerUnavailable("it is locked")

    patient.release(3, "user:test")
    patient.judge(1)
    patient.live()
    with monkeypatch.context() as dying:
        dying.setattr(verbs, "_hand", dies)
        assert said("rollback", "delay", *words).exit_code == 1
    assert said("retire", "delay").exit_code == 0
    assert said("recover", "delay").exit_code == 0
    monkeypatch.setattr(carry_out, "TAKE_UP_AFTER", timedelta(0))
    patient.live()
    decision = patient.decision("roll back")
    assert (decision.id, decision.actor, decision.outcome) == (patient.plans[3].rollout, "user:ann", "done")
    assert decision.what.details == details
    assert [one.released.release for one in patient.record.releases] == [1, 2, 3, 4, 6]
    assert len(patient.plans) == 6


def test_a_rollback_whose_publication_fails_when_the_plan_is_out_goes_back_once(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
):
    """The long way went back once more, from the version that had just been put back."""
    patient.release(3, "user:test")
    publish = ReleaseStore.publish

    def fails(store: ReleaseStore, plan: ReleasePlan) -> None:
        publish(store, plan)
        raise OSError("the folder cannot be synced")

    with monkeypatch.context() as failing:
        failing.setattr(ReleaseStore, "publish", fails)
        result = said("rollback", "delay")
    assert result.exit_code == 0, result.output
    assert (patient.champion, len(patient.plans), patient.plans[-1].withdrawn) == (2, 4, (3,))
    assert patient.decision("roll back").id == patient.plans[-1].rollout


def test_a_rollback_to_what_never_served_is_on_record_while_the_registry_is_out_of_reach(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
):
    def unreachable(registry: Untracked, model: str) -> NoReturn:
        assert ways_back(patient), "the registry was asked before anything was decided"
        raise MlflowException("connection refused")

    with monkeypatch.context() as lost:
        lost.setattr(Untracked, "versions", unreachable)
        result = said("rollback", "delay", "--to", "7")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "no traceback"
    assert "the registry that knows it is out of reach (connection refused); try again" in result.output
    assert patient.decision("roll back").outcome == "failed"


def test_a_rollback_whose_plans_are_damaged_says_so(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    def damaged(store: ReleaseStore, model: str) -> NoReturn:
        raise ReleaseDamaged("a plan is missing: restore it from a backup")

    monkeypatch.setattr(ReleaseStore, "history", damaged)
    result = said("rollback", "delay")
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (1, True)
    assert "restore it from a backup" in result.output
    assert "in force" not in result.output
    assert patient.decision("roll back").outcome is None


def test_the_way_back_is_published_before_anything_heavy_is_imported(tmp_path: Path):
    """Callers of the bad version waited seconds for libraries that only the records need."""
    stores = stores_in(tmp_path / "home")
    released(stores, 1, 2)
    declared = {"type": COMPONENT, "attributes": small_spec().model_dump(mode="json", exclude_unset=True)}
    (tmp_path / "defs.yaml").write_text(yaml.safe_dump(declared))
    heavy = "alembic bentoml dagster httpx jinja2 mlflow numba pandas pandera pyarrow scipy sklearn sqlalchemy"
    code = f"""
import os, sys
from pathlib import Path

os.environ["MLOPS_HOME"] = {str(tmp_path / "home")!r}
from mlops_assets.operations import terms
from mlops_assets.stores.releases import ReleaseStore

read, publish = terms.read_terms, ReleaseStore.publish

def published(store, plan):
    publish(store, plan)
    print(*sorted({{*{heavy!r}.split(), "mlops_assets.core.spec"}} & set(sys.modules)), flush=True)
    os._exit(0)

terms.read_terms = lambda model: read(model, Path({str(tmp_path)!r}))
ReleaseStore.publish = published
from mlops_assets.cli import app

app(["rollback", "delay", "--reason", "because"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "", done.stderr
    plan = ReleaseStore(stores.home.releases).current("delay")
    assert plan is not None
    assert (plan.release, plan.champion.version, plan.withdrawn) == (3, 1, (2,))


def test_a_rollback_that_cannot_be_done_says_why(patient: Patient):
    result = said("rollback", "delay", "--to", "7")
    assert result.exit_code == 1
    assert "version 7 does not exist" in result.output
    assert patient.decision("roll back").outcome == "refused"


def test_a_rollback_works_while_automation_is_frozen(patient: Patient):
    patient.write("delay", Frozen("wait"))
    assert said("rollback", "delay", "--to", "1").exit_code == 0
    assert patient.champion == 1


def test_a_training_is_decided_and_the_sensor_starts_it(patient: Patient):
    patient.judge(1)
    result = said("retrain", "delay", "--window", "30d", "--without", "temp", "--as-of", "2013-03-02T00:00:00Z")
    assert result.exit_code == 0, result.output
    assert "delay_response starts it" in result.output
    request = only(patient.tick())
    config = request.run_config["ops"]["delay__raw_data"]["config"]
    assert config == {"as_of": "2013-03-02T00:00:00+00:00", "trigger": "hand", "window": "30d", "without": ["temp"]}
    again = said("retrain", "delay")
    assert again.exit_code == 1
    assert "a training is wanted already" in again.output
    patient.launch(request)
    patient.live()
    assert patient.champion == 3
    assert not patient.record.releases[-1].released.automated


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--window", "long"), "--window 'long' is no duration"),
        (("--as-of", "2013-03-02"), "names no time zone"),
        (("--as-of", "yesterday"), "is no ISO 8601 time"),
        (("--without", "distance"), "--without distance: delay cannot be trained without it; choose of temp"),
    ],
)
def test_a_training_that_cannot_be_is_refused(patient: Patient, options: tuple[str, ...], words: str):
    result = said("retrain", "delay", *options)
    assert result.exit_code == 1
    assert words in result.output
    assert not patient.record.decisions


def test_a_training_now_is_run_here_and_settled_by_the_sensor(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    def run_job(project, job, *, show, config, tags):
        assert patient.decision("retrain").running
        assert patient.tick() == "no window has been judged yet", "the sensor does not start it as well"
        assert "as long as `mlops-assets up` runs" in said("reject", patient.decision("retrain").id).output
        again = said("retrain", "delay").output
        assert "a training is wanted already" in again
        assert "mlops-assets reject" not in again
        patient.execute(tags, config)

    monkeypatch.setattr("mlops_assets.operations.jobs.run_job", run_job)
    result = said("retrain", "delay", "--now")
    assert result.exit_code == 0, result.output
    patient.tick()
    assert (patient.champion, patient.decision("retrain").outcome) == (3, "done")


def test_what_waits_is_approved_by_the_beginning_of_its_id(patient: Patient):
    patient.judge(1)
    patient.judge(2, decayed=True, former=better(1))
    patient.live()
    waiting = patient.decision("roll back")
    result = said("approve", waiting.id[:8])
    assert "roll back of delay" in result.output
    assert "is approved" in result.output
    patient.live()
    assert patient.champion == 1
    assert patient.decision("roll back").approved_by == "user:ann"
    late = said("reject", waiting.id)
    assert late.exit_code == 1
    assert "is over (done)" in late.output


def test_what_has_not_begun_may_be_rejected(patient: Patient):
    patient.write("d-1", Decided("retrain", "auto", "it has decayed"))
    assert said("approve", "d-1").exit_code == 1
    result = said("reject", "d-1")
    assert result.exit_code == 0, result.output
    patient.judge(1)
    assert patient.live()
    assert patient.champion == 2
    assert "was rejected by user:ann: because" in said("reject", "d-1").output
    patient.write("d-2", Decided("retrain", "auto", "it has decayed"))
    assert " decisions begin with 'd-', such as d-2, " in said("reject", "d-").output


def test_an_unknown_decision_or_model_is_named(patient: Patient):
    assert "no decision begins with 'x'" in said("approve", "x").output
    assert "no model 'nobody': declared are delay" in said("freeze", "nobody").output


def test_freezing_and_thawing(patient: Patient):
    assert said("thaw", "delay").exit_code == 1
    assert said("freeze", "delay").exit_code == 0
    assert patient.record.frozen == "because"
    assert "is frozen already: because" in said("freeze", "delay").output
    assert said("thaw", "delay").exit_code == 0
    assert patient.record.frozen is None


def test_retiring_and_recovering(patient: Patient):
    assert said("retire", "delay").exit_code == 0
    assert (patient.plans[-1].retired, patient.record.retired) == ("because", "because")
    assert "is out of service (because): mlops-assets recover delay" in said("retrain", "delay").output
    assert "is out of service" in said("rollback", "delay").output
    result = said("recover", "delay")
    assert "version 2 of delay answers with release 4" in result.output
    assert patient.record.retired is None
    assert said("recover", "delay").exit_code == 0
    assert len(patient.plans) == 4


@pytest.mark.parametrize("verb", ["rollback", "retrain", "freeze", "thaw", "retire", "recover", "approve", "reject"])
def test_every_verb_wants_a_reason(patient: Patient, verb: str):
    result = CliRunner().invoke(app, [verb, "delay"])
    assert result.exit_code == 2
    assert "--reason" in result.output


def test_a_release_of_a_run_is_left_to_the_sensor_which_knows_who_asked_for_it(patient: Patient):
    """A rollback typed before the sensor had looked wrote down that a person had asked for the training."""
    patient.write("d-1", Decided("retrain", "auto", "it has decayed"), "sensor:delay_response")
    patient.judge(1)
    patient.launch(only(patient.tick()))
    assert patient.champion == 3
    assert said("rollback", "delay").exit_code == 0
    assert [one.released.release for one in patient.record.releases] == [1, 2]
    patient.live()
    assert [(one.released.release, one.released.automated) for one in patient.record.releases][2:] == [
        (3, True),
        (4, False),
    ]
