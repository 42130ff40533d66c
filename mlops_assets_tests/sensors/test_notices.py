"""The one sensor that sends notices."""

from pathlib import Path

import dagster as dg

from mlops_assets.core.notices import Notice
from mlops_assets.operations import notify
from mlops_assets.resources import StoresResource
from mlops_assets.sensors.notices import notices_sensor
from mlops_assets_tests.core.ledger_examples import AT
from mlops_assets_tests.sensors.patient import Patient


def tick(home: Path) -> str:
    with dg.build_sensor_context(resources={"stores": StoresResource(home=str(home))}) as context:
        return notices_sensor().evaluate_tick(context).skip_message or ""


def test_it_is_on_and_sends_what_is_due_to_nobody_where_nobody_is_declared(patient: Patient, monkeypatch) -> None:
    assert notices_sensor().default_status == dg.DefaultSensorStatus.RUNNING
    monkeypatch.setattr(notify, "declared_receivers", dict)
    assert tick(patient.home.root) == "nothing is due"
    patient.stores.outbox.put(Notice("k", "delay", "delay: it decays", "...", "critical"), AT)
    assert tick(patient.home.root) == "nothing is due"
    [posted] = patient.stores.outbox.all()
    assert posted.state == "no receiver"


def test_an_address_that_is_none_is_given_up_and_said(patient: Patient, monkeypatch) -> None:
    monkeypatch.setattr(notify, "declared_receivers", lambda: {"delay": ("nonsense",)})
    patient.stores.outbox.put(Notice("k", "delay", "delay: it decays", "...", "critical"), AT)
    assert tick(patient.home.root) == "0 arrived, 0 to be tried again, 1 given up"
