"""What was judged is looked at once, oldest first, and again when more is known of the newest window."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from mlops_assets.core.monitoring.watch import Sign
from mlops_assets.operations import look as looking
from mlops_assets.operations.look import Looked, look, newest_judged
from mlops_assets.stores.files import make_folder
from mlops_assets_tests.sensors.patient import FETCHED, FIRST, Patient, better, day


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return Patient(tmp_path, dg.DagsterInstance.ephemeral())


def looked(patient: Patient, before: str = "", most: int = 100) -> Looked:
    return look(patient.spec, patient.stores, lambda: datetime.now(UTC), "sensor:test", before=before, most=most)


def windows(patient: Patient) -> list[str | None]:
    return [one.what.window for one in patient.record.decisions]


def test_nothing_judged_is_nothing_written(patient: Patient) -> None:
    make_folder(patient.home.root)
    assert looked(patient) == Looked()
    assert newest_judged(patient.spec, patient.stores) == (None, None)
    assert not patient.record.decisions


def test_every_window_is_looked_at_once_in_its_order(patient: Patient) -> None:
    for number in (3, 1, 2):
        patient.judge(number)
    for _ in range(2):
        assert looked(patient).window == day(3)
        assert windows(patient) == [day(1), day(2), day(3)]
    patient.judge(4)
    looked(patient)
    assert windows(patient)[3:] == [day(4)]
    assert newest_judged(patient.spec, patient.stores) == (day(4), FIRST + timedelta(days=5))


def test_a_long_backlog_is_taken_in_parts_and_asks_for_work_at_its_end_only(patient: Patient) -> None:
    for number in range(1, 6):
        patient.judge(number, decayed=True, former=better(1))
    looked(patient, most=2)
    assert windows(patient) == [day(1), day(2)]
    assert not patient.record.open_decisions
    looked(patient, most=2)
    looked(patient, most=2)
    assert windows(patient) == [day(number) for number in range(1, 6)]
    [waiting] = patient.record.open_decisions
    assert (waiting.what.action, waiting.what.window) == ("roll back", day(5))
    [incident] = patient.record.incidents
    assert incident.times_found == 5
    assert incident.first_bad_at == FETCHED + timedelta(minutes=1), "when the first row of its first window came"


def test_rivals_are_asked_when_they_matter_and_once_for_what_is_known(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def rivals(spec, stores, windows, *, readings):
        asked.append(list(windows))
        return ()

    monkeypatch.setattr(looking, "rivals", rivals)
    spec = patient.spec.model_copy(
        update={"response": patient.spec.response.model_copy(update={"min_fresh_labels": 10**6})}
    )
    patient.spec = spec
    patient.judge(0)
    patient.judge(1, decayed=True)
    first = looked(patient)
    assert first.decision is not None
    assert first.decision.action == "alert"
    assert "waiting for data" in first.decision.reason
    assert asked == [[day(0), day(1)]]
    assert looked(patient, first.stamp).stamp == first.stamp
    assert len(asked) == 1
    looked(patient)
    assert len(asked) == 2, "a lost stamp costs one more comparison"
    assert len(patient.record.decisions) == 2


def test_a_rival_that_is_better_takes_over(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "rivals", lambda *given, **named: (better(1),))
    rules = patient.spec.response.model_copy(update={"min_fresh_labels": 10**6})
    patient.spec = patient.spec.model_copy(update={"response": rules})
    patient.judge(0)
    patient.judge(1, decayed=True)
    looked(patient)
    [waiting] = patient.record.open_decisions
    assert (waiting.what.action, waiting.what.details) == (
        "roll back",
        {"version": "1", "instead_of": "2"},
    )


def test_a_monitor_that_fails_is_an_incident_until_it_does_not(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient.judge(1)
    signs = [Sign("failing", "the monitor fails: disk full")]
    monkeypatch.setattr(looking, "watch_monitor", lambda spec, stores, now: tuple(signs))
    looked(patient)
    looked(patient)
    [incident] = patient.record.open_incidents
    assert (incident.cause, incident.first_bad_at, incident.times_found) == ("monitor:failing", None, 1)
    signs.clear()
    looked(patient)
    assert not patient.record.open_incidents
