"""The jobs that a person starts from the UI."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mlops_assets.assets.by_hand import jobs_by_hand
from mlops_assets_tests.sensors.patient import Patient, PatientResource


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Patient(tmp_path, instance)


def run(patient: Patient, job: str, **config: Any) -> dg.ExecuteInProcessResult:
    op = {"delay_rollback": "delay_roll_back", "delay_retrain": "delay_ask_for_training"}[job]
    resources = {"stores": PatientResource(home=str(patient.home.root))}
    definitions = dg.Definitions(jobs=jobs_by_hand(patient.spec), resources=resources)
    return definitions.resolve_job_def(job).execute_in_process(
        {"ops": {op: {"config": config}}}, instance=patient.instance, raise_on_error=False
    )


def test_a_rollback_is_done_in_its_run(patient: Patient) -> None:
    done = run(patient, "delay_rollback", reason="customers complain")
    assert done.success
    decision = patient.decision("roll back")
    assert (decision.what.reason, decision.outcome, patient.champion) == ("customers complain", "done", 1)
    assert decision.actor == f"user:ui/run:{done.run_id}"


def test_a_rollback_that_cannot_be_done_fails(patient: Patient) -> None:
    assert not run(patient, "delay_rollback", reason="why not", version=9).success
    assert patient.champion == 2


def test_a_training_is_asked_for_and_started_by_the_sensor(patient: Patient) -> None:
    patient.judge(1)
    assert run(patient, "delay_retrain", reason="new rows", window="30d", without=["temp"]).success
    patient.live()
    assert (patient.champion, patient.decision("retrain").outcome) == (3, "done")
    [made] = [one for one in patient.instance.get_runs() if one.job_name == "delay_lifecycle"]
    config = made.run_config["ops"]["delay__raw_data"]["config"]
    assert config == {"trigger": "hand", "window": "30d", "without": ["temp"]}


@pytest.mark.parametrize("config", [{"window": "long"}, {"as_of": "yesterday"}, {"without": ["distance"]}])
def test_a_wish_that_cannot_be_met_is_not_written_down(patient: Patient, config: dict[str, Any]) -> None:
    assert not run(patient, "delay_retrain", reason="x", **config).success
    assert not patient.record.decisions


def test_a_reason_is_required(patient: Patient) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="reason"):
        run(patient, "delay_rollback")
