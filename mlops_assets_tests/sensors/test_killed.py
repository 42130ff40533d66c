"""Nothing acts twice on one cause when the daemon is killed, at each point between decision and completion."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg
import pytest

from mlops_assets.core.guard import ServiceVerdict
from mlops_assets.core.ledger import Decided, Ended, Mitigated, Opened, Released, Started
from mlops_assets.core.service_counts import ServiceCounts
from mlops_assets.operations import guarding
from mlops_assets.operations.carry_out import Carrier, NoRuns
from mlops_assets.operations.guard import GuardFinding
from mlops_assets.sensors.guard import guard_sensor
from mlops_assets.stores.ledger import Ledger
from mlops_assets.stores.releases import ReleaseStore
from mlops_assets_tests.sensors.killing import Killed, Killer, killer_of
from mlops_assets_tests.sensors.patient import Patient, PatientResource, Untracked, better

WRITES = ((Ledger, "record"), (ReleaseStore, "publish"), (Untracked, "move_alias"), (Patient, "launch"))


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    return killer_of(monkeypatch, WRITES)


def each_point(
    killer: Killer,
    folder: Path,
    prepare: Callable[[Patient], None],
    act: Callable[[Patient], Any],
) -> Iterator[Patient]:
    """One patient for each point, at which its program was killed and then started anew until it came to rest."""
    for at in range(1, 200):
        with dg.DagsterInstance.ephemeral() as instance:
            patient = Patient(folder / str(at), instance)
            prepare(patient)
            # A run that is killed in its step is caught, and said to have failed, by what executes it here.
            with suppress(Killed), killer.armed(at):
                act(patient)
            for run in instance.get_runs():
                if not run.is_finished:  # Dagster's run monitoring finds that its process is gone
                    instance.report_run_failed(run, "its process is gone")
            act(patient)
            yield patient
            if killer.passed < at:
                assert at > 8, "the points were not found"
                return


def facts(patient: Patient, *kinds: type) -> list[Any]:
    return [line.entry.fact for line in patient.stores.ledger.entries() if isinstance(line.entry.fact, kinds)]


def test_one_decay_is_one_training_and_one_release(tmp_path: Path, killer: Killer) -> None:
    def decay(patient: Patient) -> None:
        patient.judge(1)
        patient.judge(2)
        patient.tick()
        patient.judge(3, decayed=True)

    for patient in each_point(killer, tmp_path, decay, lambda one: one.live(restarting=True)):
        [retrain] = [one for one in facts(patient, Decided) if one.action == "retrain"]
        decision = patient.decision("retrain")
        assert decision.what == retrain
        assert [one.champion.version for one in patient.plans] == [1, 2, 3]
        keys = [run.tags["dagster/run_key"] for run in patient.instance.get_runs()]
        assert len(keys) == len(set(keys)), "an attempt is one run"
        assert decision.outcome == "done"
        ended = [one.attempt for one in facts(patient, Ended)]
        assert ended == list(range(1, decision.attempts + 1)), "an attempt ends once"
        assert decision.attempts == len(keys)
        assert len([one for one in facts(patient, Released) if one.version == 3]) == 1
        assert len([one for one in facts(patient, Opened) if one.cause == "performance"]) == 1
        assert len(facts(patient, Mitigated)) == 1
        assert patient.stores.ledger.verify().problem is None


def assert_gone_back_once(patient: Patient, action: str = "roll back") -> None:
    decision = patient.decision(action)
    assert (decision.outcome, decision.attempts) == ("done", 1)
    assert [one.champion.version for one in patient.plans] == [1, 2, 1]
    assert [len(facts(patient, kind)) for kind in (Started, Ended, Mitigated)] == [1, 1, 1]
    assert [one.version for one in facts(patient, Released)] == [1, 2, 1]
    assert patient.stores.ledger.verify().problem is None


def test_one_decay_is_one_rollback(tmp_path: Path, killer: Killer) -> None:
    def decay(patient: Patient) -> None:
        patient.judge(1)
        patient.tick()
        patient.judge(2, decayed=True, former=better(1))

    for patient in each_point(killer, tmp_path, decay, lambda one: one.live(restarting=True)):
        assert_gone_back_once(patient)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Release 2 fails as long as it is in force."""
    verdict = ServiceVerdict("errors", 20, 60, 0.05, 1e-9, "20 of 60 requests failed")

    def watched(spec: Any, stores: Any, now: datetime) -> GuardFinding | None:
        plan = stores.releases.current("delay")
        return GuardFinding(2, 2, plan.decided_at, verdict, ServiceCounts(), 1) if plan.release == 2 else None

    monkeypatch.setattr(guarding, "watch_release", watched)


def guarded(patient: Patient) -> None:
    """The sensor of the guard and that of the response, one after the other, until both are at rest."""
    sensor = guard_sensor(patient.spec)
    for _ in range(2):
        with dg.build_sensor_context(
            patient.instance, resources={"stores": PatientResource(home=str(patient.home.root))}
        ) as context:
            sensor.evaluate_tick(context)
        patient.live(restarting=True)


@pytest.mark.usefixtures("failing")
def test_one_bad_release_is_one_rollback(tmp_path: Path, killer: Killer) -> None:
    def settle(patient: Patient) -> None:
        patient.judge(1)
        patient.tick()

    for patient in each_point(killer, tmp_path, settle, guarded):
        assert_gone_back_once(patient)
        [incident] = patient.record.incidents
        assert (incident.cause, incident.is_open) == ("service", False)
        assert incident.first_bad_at == patient.plans[1].decided_at


DECIDED = {
    "freeze": Decided("freeze", "auto", "too much", details={"version": "1"}),
    "impute": Decided("impute", "auto", "it is in °C", details={"masked": "temp"}),
}


@pytest.mark.parametrize("action", DECIDED)
def test_what_was_decided_is_done_once(tmp_path: Path, killer: Killer, action: str) -> None:
    def decide(patient: Patient) -> None:
        patient.judge(1)
        patient.tick()
        feed = Opened(f"feed:{patient.spec.feed_of('temp')}", "it is in °C", "warning")
        patient.write("delay/feed/1", feed, "sensor:delay_response")
        patient.write("d-1", DECIDED[action], "sensor:delay_response")

    for patient in each_point(killer, tmp_path, decide, lambda one: one.live(restarting=True)):
        assert patient.decision(action).outcome == "done"
        assert len(patient.plans) == 3
        assert [len(facts(patient, kind)) for kind in (Started, Ended)] == [1, 1]
        assert (patient.record.frozen is not None) == (action == "freeze")
        assert patient.plans[-1].masked == (("temp",) if action == "impute" else ())


def test_two_at_once_do_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process carries out the same decision while the first is in the middle of it."""
    with dg.DagsterInstance.ephemeral() as instance:
        patient = Patient(tmp_path, instance)
        patient.judge(1)
        patient.tick()
        patient.judge(2, decayed=True, former=better(1))
        others: list[Thread] = []
        publish = ReleaseStore.publish

        def interrupted(store: ReleaseStore, plan: Any) -> None:
            if not others:
                another = Carrier(patient.spec, patient.stores, NoRuns(), lambda: datetime.now(UTC), "sensor:another")
                others.append(Thread(target=another.carry_on))
                others[0].start()
            publish(store, plan)

        monkeypatch.setattr(ReleaseStore, "publish", interrupted)
        patient.live(restarting=True)
        others[0].join(60)
        assert not others[0].is_alive()
        assert_gone_back_once(patient)
