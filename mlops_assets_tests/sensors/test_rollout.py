"""The sensor of rollouts on a real instance: what it reports, and that nothing is done twice when it is killed."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mlops_assets.assets.rollout import rollout_asset, tell_of_look
from mlops_assets.core.ledger import Refused, Released
from mlops_assets.core.rollout import Entrant, Origin, Release, promotion
from mlops_assets.core.trials.facts import TrialBegan, TrialStepped
from mlops_assets.operations.replay import MemoryRegistry
from mlops_assets.sensors.rollout import Tell, rollout_sensor
from mlops_assets.stores.home import Home
from mlops_assets.stores.ledger import Ledger
from mlops_assets.stores.releases import ReleaseStore
from mlops_assets_tests.operations.trial_examples import Trying
from mlops_assets_tests.sensors.killing import Killed, Killer, killer_of
from mlops_assets_tests.sensors.patient import FETCHED, PatientResource, PatientStores, Untracked
from mlops_assets_tests.serving.factory import small_model

WRITES = ((Ledger, "record"), (ReleaseStore, "publish"), (MemoryRegistry, "move_alias"))


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    return killer_of(monkeypatch, WRITES)


def trying(home: Path) -> Trying:
    """Version 1 serves and version 2 is on trial, in stores that another process could open."""
    one = Trying(home, PatientStores(Home(home)), strategy="shadow")
    model, plans = small_model(version=1), one.stores.releases
    entrant = Entrant(
        Release(1, one.stores.bundles.put(model.manifest, model.files)), model.features, 0.25, model.manifest.as_of
    )
    plans.publish(promotion(None, entrant, Origin("r-1", "it passed", "user:test", FETCHED), model="delay", salt="s"))
    one.start()
    return one


def tick(one: Trying, instance: dg.DagsterInstance, cursor: str | None = None, tell: Tell = tell_of_look) -> Any:
    sensor = rollout_sensor(one.spec, tell)
    resources = {"stores": PatientResource(home=str(one.stores.home.root))}
    with dg.build_sensor_context(instance, cursor=cursor, resources=resources) as context:
        return sensor.evaluate_tick(context)


def rest(one: Trying, instance: dg.DagsterInstance) -> None:
    for _ in range(2):
        tick(one, instance, tell=lambda *_: dg.AssetMaterialization("rollout"))


@pytest.mark.parametrize(("right", "step"), [(0.95, "promote"), (0.5, "dismiss")])
def test_killed_anywhere_a_trial_ends_once(tmp_path: Path, killer: Killer, right: float, step: str):
    for at in range(1, 60):
        with dg.DagsterInstance.ephemeral() as instance:
            one = trying(tmp_path / str(at))
            one.log(400, champion=0.65, challenger=right)
            with suppress(Killed), killer.armed(at):
                rest(one, instance)
            rest(one, instance)
            steps = [line.entry.fact for line in one.stores.ledger.entries("delay", kinds=("trial stepped",))]
            assert [fact.step for fact in steps if isinstance(fact, TrialStepped)] == [step]
            assert len(one.stores.ledger.entries("delay", kinds=("trial begun",))) == 1
            assert len(one.history) == 3
            assert one.plan.champion.version == (2 if step == "promote" else 1)
            told = [line.entry.fact for line in one.stores.ledger.entries("delay")]
            released = [fact.version for fact in told if isinstance(fact, Released)]
            assert released.count(2) == (step == "promote")
            assert sum(isinstance(fact, Refused) for fact in told) == (step == "dismiss")
            assert one.stores.ledger.verify().problem is None
            if killer.passed < at:
                assert at > 6, "the points were not found"
                return
    raise AssertionError("it was killed again and again")


def test_each_look_is_told_with_its_picture(tmp_path: Path, instance: dg.DagsterInstance):
    one = trying(tmp_path)
    one.log(30)
    first = tick(one, instance)
    [event] = first.asset_events
    assert event.asset_key == rollout_asset(one.spec).key
    assert event.metadata["step"].value == "keep looking"
    assert event.metadata["quality_samples"].value == 30
    assert "data:image/png" in event.metadata["evidence"].value
    again = tick(one, instance, first.cursor)
    assert (again.asset_events, again.skip_message) == ([], "nothing new")
    assert [one.began.version for one in one.record.trials] == [2]
    assert isinstance(one.trial.began, TrialBegan)
    assert isinstance(one.stores.registry, Untracked)
