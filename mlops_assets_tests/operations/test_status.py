"""What the status says of incidents and automation."""

from pathlib import Path

import dagster as dg
import pytest

from mlops_assets.core.ledger import Decided, Fact, Frozen, Opened, Resolved, Retired, Started
from mlops_assets.operations.status import ModelStatus, model_status
from mlops_assets.stores.database import LedgerUnavailable
from mlops_assets_tests.core.ledger_examples import AT, opened
from mlops_assets_tests.sensors.patient import Patient
from mlops_assets_tests.serving.factory import corrupt


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return Patient(tmp_path, dg.DagsterInstance.ephemeral())


def of(patient: Patient) -> ModelStatus:
    [one] = model_status(patient.stores, [patient.spec], AT)
    return one


def test_a_champion_whose_bundle_is_damaged_is_told_of(patient: Patient) -> None:
    assert of(patient).trained_until is not None
    corrupt(patient.stores.home, patient.plans[-1].champion.bundle)
    assert (of(patient).champion, of(patient).trained_until) == (2, None)
    assert of(patient).workers == "none running; its bundle is lost or damaged"


def test_nothing_is_wrong_and_automation_is_on(patient: Patient) -> None:
    assert (of(patient).incidents, of(patient).automation) == ("-", "on")


def test_open_incidents_are_counted_by_severity(patient: Patient) -> None:
    incidents: dict[str, Opened] = {"a": opened("performance", "critical"), "b": opened("drift"), "c": opened("gates")}
    for name, fact in incidents.items():
        patient.write(name, fact)
    assert of(patient).incidents == "1 critical, 2 warning"
    patient.write("b", Resolved("over"))
    assert of(patient).incidents == "1 critical, 1 warning"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ((("delay", Frozen("too much")),), "frozen: too much"),
        ((("delay", Retired("old")),), "retired: old"),
        ((("d-1", Decided("roll back", "approve", "x")),), "roll back waits for approval (d-1)"),
        ((("d-1", Decided("retrain", "auto", "x")), ("d-1", Started(1, "r"))), "retrain under way"),
    ],
)
def test_what_automation_does(patient: Patient, facts: tuple[tuple[str, Fact], ...], said: str) -> None:
    for subject, fact in facts:
        patient.write(subject, fact)
    assert of(patient).automation == said


def test_a_ledger_out_of_reach_hides_nothing_else(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: object, model: str) -> None:
        raise LedgerUnavailable("it is locked")

    monkeypatch.setattr("mlops_assets.stores.ledger.Ledger.of", gone)
    assert of(patient).champion == 2
    assert of(patient).automation == "the ledger is out of reach: it is locked"
