"""Which versions are asked again, on which rows, and in what order they come."""

from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from mlops_assets.core.rollout import Challenger, Release
from mlops_assets.core.scoring.scorer import ScorerError
from mlops_assets.operations import rivals as asking
from mlops_assets.operations.rivals import as_scored, rivals
from mlops_assets.operations.stores import Stores
from mlops_assets_tests.operations.rollback_examples import MemoryRegistry
from mlops_assets_tests.operations.watched import LIVE_FROM, Watched, watched_fit, watched_rows
from mlops_assets_tests.serving.factory import corrupt, publish

WINDOWS = ("2024-03-01", "2024-03-02")


@pytest.fixture
def worse(tmp_path: Path) -> Watched:
    """A good version was followed by one that learnt nothing, which answered two days; a third and fourth never served."""
    watched = Watched.released(tmp_path)
    registry = MemoryRegistry({1: watched.bundle})
    watched.stores.__dict__["registry"] = registry
    for version in (2, 3, 4):
        fit = watched_fit("binary", 2)
        manifest = msgspec.structs.replace(fit.manifest, version=version)
        registry.bundles[version] = watched.stores.bundles.put(manifest, fit.files)
    registry.bundles[5] = None
    bundle = registry.bundles[2]
    assert bundle is not None
    publish(watched.stores.home, "delay", Release(2, bundle))
    worse = Watched(watched_fit("binary", 2), watched.stores, bundle)
    worse.log(watched_rows("binary", LIVE_FROM, 2, seed=7))
    worse.compacted()
    return worse


def asked(stores: Stores, watched: Watched, most: int = 5) -> list[tuple[int, bool]]:
    return [(one.version, one.is_better) for one in rivals(watched.spec, stores, WINDOWS, most=most)]


def test_the_better_version_comes_first_and_rows_of_all_windows_count(worse: Watched):
    found = rivals(worse.spec, worse.stores, WINDOWS)
    assert [(one.version, one.is_better) for one in found] == [(1, True), (4, False), (3, False)]
    assert {one.comparison.rows for one in found} == {240}
    assert found[0].comparison.champion < found[0].comparison.candidate
    assert found[1].comparison.champion == found[1].comparison.candidate, "it is the same model"


def test_only_the_newest_are_asked(worse: Watched):
    assert asked(worse.stores, worse, most=2) == [(4, False), (3, False)]


def test_withdrawn_and_damaged_versions_are_left_out(worse: Watched):
    stores = worse.stores
    plan = stores.releases.current("delay")
    assert plan is not None
    following = msgspec.structs.replace(plan, release=plan.release + 1, previous=plan.release, withdrawn=(4,))
    stores.releases.publish(following)
    bundle = stores.registry.versions("delay")[2].tags["bundle"]
    corrupt(stores.home, bundle)
    assert asked(stores, worse) == [(1, True)]


def test_one_that_refuses_a_value_keeps_the_others_from_nothing(worse: Watched, monkeypatch: pytest.MonkeyPatch):
    third, ask = worse.stores.registry.versions("delay")[2].tags["bundle"], asking.ask_again

    def refuse(stores: Stores, model: str, bundle: str, features: pd.DataFrame) -> Any:
        if bundle == third:
            raise ScorerError("row 3: feature 'temp' is too large")
        return ask(stores, model, bundle, features)

    monkeypatch.setattr(asking, "ask_again", refuse)
    assert asked(worse.stores, worse) == [(1, True), (4, False)]


def test_the_version_on_trial_is_left_out(worse: Watched):
    """Going back to the challenger would have promoted it, whatever its trial said."""
    stores = worse.stores
    plan, bundle = stores.releases.current("delay"), stores.registry.versions("delay")[3].tags["bundle"]
    assert plan is not None
    tried = Challenger(4, bundle, "shadow", 1.0)
    stores.releases.publish(
        msgspec.structs.replace(plan, release=plan.release + 1, previous=plan.release, challenger=tried)
    )
    assert asked(stores, worse) == [(1, True), (3, False)]


def test_without_labelled_rows_of_the_champion_nobody_is_asked(worse: Watched):
    assert rivals(worse.spec, worse.stores, ("2024-04-01",)) == ()
    publish(worse.stores.home, "delay", Release(1, worse.stores.registry.versions("delay")[0].tags["bundle"]))
    assert rivals(worse.spec, worse.stores, WINDOWS) == ()
    assert rivals(worse.spec, Stores(worse.stores.home.__class__(worse.stores.home.root / "empty")), WINDOWS) == ()


def test_rows_of_a_release_that_masked_a_feature_are_asked_without_it(worse: Watched):
    plan = worse.stores.releases.current("delay")
    assert plan is not None
    masked = msgspec.structs.replace(plan, release=plan.release + 1, previous=plan.release, masked=("temp", "carrier"))
    worse.stores.releases.publish(masked)
    rows = pd.DataFrame({"release": [plan.release, masked.release]})
    features = pd.DataFrame({"temp": [50.0, 51.0], "wind": [3.0, 4.0], "carrier": ["AA", "UA"]})
    scored = as_scored(worse.stores, "delay", rows, features)
    assert scored["temp"].isna().tolist() == scored["carrier"].isna().tolist() == [False, True]
    assert scored["wind"].tolist() == [3.0, 4.0]
    assert features["temp"].tolist() == [50.0, 51.0], "the log's own rows stay as received"
    assert as_scored(worse.stores, "delay", rows.head(1), features.head(1)) is not None
