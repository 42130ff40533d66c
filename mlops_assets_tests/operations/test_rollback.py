"""Going back: to whom, who is refused before anything moves, and where a copy or a registry is out of reach."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mlflow.exceptions import MlflowException

from mlops_assets.core.rollout import Challenger, Release
from mlops_assets.core.scoring.scorer import GoldenRows
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations import rollback
from mlops_assets.operations.plan_changes import ChangeFailed
from mlops_assets.operations.rollback import RollbackRefused, fall_back, retire
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.terms import Terms
from mlops_assets_tests.operations.rollback_examples import (
    NOON,
    WHY,
    back,
    bundled,
    current,
    registry_of,
    three_released,
)
from mlops_assets_tests.serving.factory import corrupt, small_model, small_spec

SPEC = small_spec()


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return three_released(tmp_path)


class TestRollBack:
    def test_the_last_good_version_answers_again(self, stores: Stores):
        changed = back(stores, origin="d-1")
        plan = current(stores)
        assert changed.plan == plan
        assert (plan.release, plan.champion.version, plan.withdrawn, plan.rollout) == (4, 2, (3,), "d-1")
        assert plan.last_good is not None
        assert plan.last_good.version == 1
        assert (plan.reason, plan.decided_by, plan.decided_at) == ("it is worse", "sensor:tests", NOON)
        assert (changed.former, changed.workers, changed.is_new) == (3, 0, True)
        assert changed.smoke.passed

    def test_the_alias_moves_with_its_history(self, stores: Stores):
        back(stores)
        moves = registry_of(stores).moves
        assert [move.version for move in moves] == [1, 2, 3, 2]
        assert moves[-1].reason == "it is worse"

    def test_a_version_can_be_named_and_the_former_spared(self, stores: Stores):
        changed = back(stores, 1, keep_former=True)
        assert (changed.plan.champion.version, changed.plan.withdrawn) == (1, ())
        assert changed.plan.last_good is not None
        assert changed.plan.last_good.version == 2

    def test_a_registered_version_that_never_served_will_do(self, stores: Stores):
        bundled(stores, small_model(version=4))
        assert back(stores, 4).plan.champion.version == 4

    def test_a_second_one_goes_further_back_and_then_there_is_none_but_those_withdrawn(self, stores: Stores):
        back(stores, origin="d-1")
        assert back(stores, origin="d-2").plan.champion.version == 1
        with pytest.raises(RollbackRefused, match=r"no earlier version to go back to \(withdrawn: 2, 3\)"):
            back(stores, origin="d-3")
        assert current(stores).withdrawn == (3, 2)

    def test_where_the_last_good_one_is_damaged_the_one_before_it_serves(self, stores: Stores):
        corrupt(stores.home, stores.releases.get("delay", 2).champion.bundle)
        assert back(stores).plan.champion.version == 1

    def test_it_ends_a_fallback(self, stores: Stores):
        fall_back(SPEC, stores, **WHY)
        plan = back(stores).plan
        assert (plan.champion.version, plan.fallen_back) == (2, False)

    def test_the_version_that_answers_already_is_left_alone(self, stores: Stores):
        changed = back(stores, 3)
        assert (changed.is_new, changed.plan.release) == (False, 3)


def damaged(stores: Stores) -> Any:
    corrupt(stores.home, stores.releases.get("delay", 1).champion.bundle)


def lost(stores: Stores) -> Any:
    shutil.rmtree(stores.bundles.path(stores.releases.get("delay", 1).champion.bundle))


def withdrawn(stores: Stores) -> Any:
    back(stores, origin="d-0")
    back(stores, origin="d-1")
    registry_of(stores).moves.clear()
    return {"to": 3}


def never_bundled(stores: Stores) -> Any:
    registry_of(stores).bundles[8] = None
    return {"to": 8}


def another_contract(stores: Stores) -> Any:
    declared = SPEC.model_dump(mode="json", exclude_unset=True)
    declared["features"] = [one for one in declared["features"] if one["name"] != "temp"]
    return {"spec": ModelSpec.model_validate(declared)}


def another_type(stores: Stores) -> Any:
    declared = SPEC.model_dump(mode="json", exclude_unset=True)
    for one in declared["features"]:
        if one["name"] == "holiday":
            one["type"] = "number"
    return {"spec": ModelSpec.model_validate(declared)}


def golden_rows_differ(stores: Stores) -> Any:
    model = small_model(version=4)
    golden = GoldenRows.from_json(model.files["golden.json"])
    lies = msgspec.structs.replace(golden, outputs=tuple((0.5, 0.5) for _ in golden.rows)).to_json()
    registry_of(stores).bundles[4] = stores.bundles.put(model.manifest, {**model.files, "golden.json": lies})
    return {"to": 4}


def another_versions_bundle(stores: Stores) -> Any:
    registry_of(stores).bundles[5] = stores.releases.get("delay", 1).champion.bundle
    return {"to": 5}


def already_gone_on(stores: Stores) -> Any:
    return {"instead_of": 2}


def out_of_service(stores: Stores) -> Any:
    retire(SPEC, stores, **{**WHY, "reason": "no use"})


REFUSED: dict[str, tuple[Callable[[Stores], Any], str]] = {
    "damaged": (
        damaged,
        r"version 1 cannot be relied on: .*scorer.npz has the hash .*run run-1 has no folder bundles/",
    ),
    "lost": (lost, r"version 1 cannot be relied on: .* is not in "),
    "withdrawn": (withdrawn, "version 3 was withdrawn and never returns; choose another one"),
    "unknown": (lambda stores: {"to": 77}, "version 77 does not exist; choose from 1, 2"),
    "never bundled": (never_bundled, "version 8 was registered but never bundled for release; choose from 1, 2"),
    "a feature gone": (
        another_contract,
        "version 1 needs temp, which the model no longer declares; choose another one",
    ),
    "another type": (another_type, "version 1 takes holiday as another type than is declared"),
    "golden rows": (golden_rows_differ, "version 4 of delay does not answer as when it was made: 5 of 5 golden rows"),
    "another's bundle": (another_versions_bundle, "holds delay version 1, not delay version 5"),
    "gone on": (already_gone_on, "version 3 answers by now, and the decision is about 2; decide again"),
    "retired": (out_of_service, r"is out of service \(no use\); recover it first"),
}


@pytest.mark.parametrize(("prepare", "why"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_answer_is_refused_before_anything_moves(
    stores: Stores, prepare: Callable[[Stores], Any], why: str
):
    given = {"to": 1, "spec": SPEC, **(prepare(stores) or {})}
    before, moves = current(stores), list(registry_of(stores).moves)
    with pytest.raises(RollbackRefused, match=why):
        back(stores, given.pop("to"), **given)
    assert current(stores) == before
    assert registry_of(stores).moves == moves


def test_a_version_that_refuses_what_callers_send_by_now_does_not_return(stores: Stores):
    """Unknown fields are refused by the contract: every request would be answered with 422."""
    narrow = small_spec()
    manifest = small_model(version=1).manifest
    fewer = tuple(one for one in manifest.features if one.name != "temp")
    gap = rollback._other_features(Terms.of(narrow), manifest, msgspec.structs.replace(manifest, features=fewer))
    assert gap == "refuses temp, which callers send by now"


class TestCopies:
    def test_a_lost_bundle_comes_back_from_a_bento_that_carries_it(self, stores: Stores):
        release = stores.releases.get("delay", 2).champion
        carried = stores.home.bentoml / "bentos/predictor/abc/src/carried/bundles"
        carried.mkdir(parents=True)
        name = release.bundle.removeprefix("sha256:")
        shutil.move(stores.bundles.path(release.bundle), carried / name)
        assert back(stores, 2).plan.champion == release
        assert stores.bundles.get(release.bundle).id == release.bundle

    def test_a_damaged_bundle_is_replaced_by_what_was_logged_to_its_run(self, stores: Stores, tmp_path: Path):
        release = stores.releases.get("delay", 2).champion
        logged = tmp_path / "logged"
        shutil.copytree(stores.bundles.path(release.bundle), logged)
        corrupt(stores.home, release.bundle)
        asked: list[tuple[str, str]] = []

        def fetch(run_id: str, folder: str, to: Path) -> Path:
            asked.append((run_id, folder))
            return Path(shutil.copytree(logged, to / "found"))

        registry_of(stores).fetch_folder = fetch  # type: ignore[method-assign]
        assert back(stores, 2).plan.champion == release
        assert asked == [("run-2", f"bundles/{release.bundle.removeprefix('sha256:')}")]
        assert stores.bundles.get(release.bundle).id == release.bundle

    def test_a_copy_that_is_another_bundle_does_not_count(self, stores: Stores):
        release, other = (stores.releases.get("delay", number).champion for number in (2, 1))
        carried = stores.home.bentoml / "bentos/predictor/abc/src/carried/bundles"
        carried.mkdir(parents=True)
        shutil.rmtree(stores.bundles.path(release.bundle))
        shutil.copytree(stores.bundles.path(other.bundle), carried / release.bundle.removeprefix("sha256:"))
        with pytest.raises(RollbackRefused, match="holds another bundle"):
            back(stores, 2)


class TestWithoutTheLastGood:
    def test_whose_bundle_is_lost_the_one_before_it_answers_and_the_plan_says_why(self, stores: Stores):
        lost = stores.releases.get("delay", 2).champion
        corrupt(stores.home, lost.bundle)
        plan = back(stores).plan
        assert (plan.champion.version, plan.last_good) == (1, None)
        assert plan.reason.startswith("it is worse; version 2 cannot be relied on: ")
        assert "run run-2 has no folder" in plan.reason

    def test_which_is_on_trial_again_the_one_before_it_answers(self, stores: Stores):
        plan = current(stores)
        assert plan.last_good is not None
        tried = Challenger(2, plan.last_good.bundle, "shadow", 1.0)
        stores.releases.publish(
            msgspec.structs.replace(plan, release=4, previous=3, rollout="r-trial", challenger=tried)
        )
        with pytest.raises(RollbackRefused, match="version 2 is on trial in release 4 and no way back"):
            back(stores, 2)
        plan = back(stores).plan
        assert (plan.champion.version, plan.challenger) == (1, None)
        assert "version 2 is on trial in release 4" in plan.reason


class TestRegistryOutOfReach:
    @pytest.fixture
    def locked(self, stores: Stores) -> Callable[[], None]:
        """A registry that answers nothing until the returned function is called."""
        context = pytest.MonkeyPatch()

        def fail(*given: Any) -> Any:
            raise MlflowException("database is locked")

        for name in ("move_alias", "aliased", "versions"):
            context.setattr(registry_of(stores), name, fail)
        return context.undo

    def test_the_earlier_version_serves_all_the_same_and_the_alias_follows(
        self, stores: Stores, locked: Callable[[], None]
    ):
        with pytest.raises(
            ChangeFailed, match=r"release 4 is in force, but the alias .* database is locked; try again"
        ):
            back(stores, origin="d-1")
        assert current(stores).champion.version == 2
        locked()
        assert registry_of(stores).aliased("delay", "champion") == 3
        assert not back(stores, origin="d-1").is_new
        assert registry_of(stores).aliased("delay", "champion") == 2

    def test_a_damaged_bundle_is_refused_as_ever(self, stores: Stores, locked: Callable[[], None]):
        damaged(stores)
        with pytest.raises(RollbackRefused, match="MLflow is out of reach: database is locked"):
            back(stores, 1)


def test_a_released_bundle_is_named_by_its_plan_when_the_registry_is_out_of_reach(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(registry_of(stores), "versions", lambda model: pytest.fail("the registry was asked"))
    assert back(stores, 1).plan.champion == Release(1, stores.releases.get("delay", 1).champion.bundle)
