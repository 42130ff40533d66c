"""A champion whose bundle is damaged on disk, and a worker that says so."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.operations.bento import bento_path
from mlops_assets.operations.mending import mend_champion
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.registry import VersionFacts
from mlops_assets.stores.workers import WorkerState
from mlops_assets_tests.operations.rollback_examples import registry_of, released, stores_in
from mlops_assets_tests.serving.factory import corrupt, small_spec

SPEC = small_spec()


def served(tmp_path: Path, errors: dict[str, str]) -> tuple[Stores, ReleasePlan]:
    stores = stores_in(tmp_path)
    plan, now = released(stores, 1), datetime.now(UTC)
    stores.workers.report(WorkerState("a", os.getpid(), "another-host", now, now, {}, errors))
    return stores, plan


def carry(stores: Stores, plan: ReleasePlan) -> None:
    """A Bento that carries the bundle."""
    carried = bento_path(stores.home, "predictor:1") / "src" / "carried" / "bundles"
    name = plan.champion.bundle.removeprefix("sha256:")
    shutil.copytree(stores.bundles.path(plan.champion.bundle), carried / name)


def test_a_damaged_bundle_is_put_back_from_a_whole_copy(tmp_path: Path):
    stores, plan = served(tmp_path, {"delay": "BundleError: damaged"})
    carry(stores, plan)
    corrupt(stores.home, plan.champion.bundle)
    told = mend_champion(SPEC, stores, datetime.now(UTC))
    assert told is not None
    assert not told.is_lost
    assert told.told.startswith("the bundle of version 1 was put back: bundle sha256:")
    assert stores.bundles.get(plan.champion.bundle).id == plan.champion.bundle
    assert mend_champion(SPEC, stores, datetime.now(UTC)) is None, "it is whole"


def test_nothing_is_read_as_long_as_no_worker_complains(tmp_path: Path):
    stores, plan = served(tmp_path, {})
    corrupt(stores.home, plan.champion.bundle)
    assert mend_champion(SPEC, stores, datetime.now(UTC)) is None
    assert mend_champion(SPEC, stores_in(tmp_path / "empty"), datetime.now(UTC)) is None


def test_a_bundle_of_which_no_copy_is_whole_is_told(tmp_path: Path):
    stores, plan = served(tmp_path, {"delay": "BundleError: damaged"})
    corrupt(stores.home, plan.champion.bundle)
    told = mend_champion(SPEC, stores, datetime.now(UTC))
    assert told is not None
    assert told.is_lost
    assert (told.release, told.version) == (plan.release, 1)
    assert "no copy of its bundle is whole" in told.told


@pytest.mark.parametrize(
    ("method", "error", "told_of"),
    [
        ("versions", MlflowException("connection refused"), "MLflow is out of reach"),
        ("fetch_folder", OSError("no space left on device"), "no space left on device"),
    ],
)
def test_one_that_may_yet_be_fetched_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception, told_of: str
):
    stores, plan = served(tmp_path, {"delay": "BundleError: damaged"})
    corrupt(stores.home, plan.champion.bundle)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(registry_of(stores), method, fail)
    told = mend_champion(SPEC, stores, datetime.now(UTC))
    assert told is not None
    assert not told.is_lost
    assert told_of in told.told


def test_a_registry_that_comes_back_a_moment_later_has_not_been_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stores, plan = served(tmp_path, {"delay": "BundleError: damaged"})
    corrupt(stores.home, plan.champion.bundle)
    registry, asked = registry_of(stores), []
    known = registry.versions

    def versions(model: str) -> tuple[VersionFacts, ...]:
        asked.append(model)
        if len(asked) == 1:
            raise MlflowException("connection refused")
        return known(model)

    monkeypatch.setattr(registry, "versions", versions)
    told = mend_champion(SPEC, stores, datetime.now(UTC))
    assert told is not None
    assert not told.is_lost
