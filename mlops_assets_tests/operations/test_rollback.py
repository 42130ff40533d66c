"""Changes of who answers: what is refused before anything moves, what is taken back, and what a stop on the way leaves."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mlflow.exceptions import MlflowException

from mlops_assets.core.rollout import Challenger, Release, ReleasePlan
from mlops_assets.core.scoring.scorer import GoldenRows
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations import confirm, rollback
from mlops_assets.operations.plan_changes import Changed, ChangeFailed, ChangeRefused
from mlops_assets.operations.rollback import RollbackRefused, fall_back, force_release, mask, recover, retire, roll_back
from mlops_assets.operations.smoke import SmokeTest
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import NotLive, RefusedByWorker
from mlops_assets.operations.terms import Terms
from mlops_assets.stores.home import Home
from mlops_assets.stores.releases import ReleaseStore
from mlops_assets_tests.operations.rollback_examples import NOON, bundled, registry_of, released, stores_in
from mlops_assets_tests.serving.factory import corrupt, small_model, small_spec

SPEC = small_spec()
WHY: dict[str, Any] = {"reason": "it is worse", "decided_by": "sensor:tests", "now": NOON}


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    """Versions 1, 2 and 3 were released; 3 answers."""
    stores = stores_in(tmp_path)
    released(stores, 1, 2, 3)
    return stores


def current(stores: Stores) -> ReleasePlan:
    plan = stores.releases.current("delay")
    assert plan is not None
    return plan


def back(stores: Stores, version: int | None = None, spec: ModelSpec = SPEC, **changes: Any) -> Changed:
    return roll_back(spec, stores, version, **{**WHY, **changes})


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

    def test_a_second_one_goes_further_back_and_then_there_is_none(self, stores: Stores):
        back(stores, origin="d-1")
        assert back(stores, origin="d-2").plan.champion.version == 1
        with pytest.raises(RollbackRefused, match=r"no earlier version to go back to \(no version has served before\)"):
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
    "unknown": (lambda stores: {"to": 77}, "has no version 77; registered are 1, 2, 3"),
    "never bundled": (never_bundled, "version 8 was registered but never bundled for release"),
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


Verb = Callable[[Stores, str], Changed]
VERBS: dict[str, Verb] = {
    "roll back": lambda stores, origin: roll_back(SPEC, stores, None, **WHY, origin=origin),
    "force": lambda stores, origin: force_release(SPEC, stores, 1, **WHY, origin=origin),
    "mask": lambda stores, origin: mask(SPEC, stores, ("temp", "carrier"), **WHY, origin=origin),
    "fall back": lambda stores, origin: fall_back(SPEC, stores, **WHY, origin=origin),
    "retire": lambda stores, origin: retire(SPEC, stores, **WHY, origin=origin),
}


class TestOtherChanges:
    def test_features_are_masked_and_unmasked(self, stores: Stores):
        assert mask(SPEC, stores, ("temp", "carrier"), **WHY).plan.masked == ("carrier", "temp")
        again = mask(SPEC, stores, ("carrier", "temp"), **WHY)
        assert (again.is_new, again.plan.release) == (False, 4)
        assert mask(SPEC, stores, (), **WHY).plan.masked == ()

    def test_an_unknown_feature_is_not_masked(self, stores: Stores):
        with pytest.raises(ChangeRefused, match="knows no wind"):
            mask(SPEC, stores, ("wind",), **WHY)
        assert current(stores).release == 3

    def test_falling_back_and_recovering(self, stores: Stores):
        fallen = fall_back(SPEC, stores, **WHY).plan
        assert (fallen.fallen_back, fallen.fallback_value) == (True, 0.25)
        assert not fall_back(SPEC, stores, **WHY).is_new
        assert not recover(SPEC, stores, **WHY).plan.fallen_back
        assert not recover(SPEC, stores, **WHY).is_new

    def test_nothing_is_fallen_back_to_without_a_constant(self, stores: Stores):
        plan = current(stores)
        none = msgspec.structs.replace(plan, release=4, previous=3, rollout="r-x", fallback_value=None)
        stores.releases.publish(none)
        with pytest.raises(ChangeRefused, match="has no fallback value; roll back instead"):
            fall_back(SPEC, stores, **WHY)

    def test_retiring_keeps_the_history_and_recovering_brings_it_back(self, stores: Stores):
        plan = retire(SPEC, stores, **WHY).plan
        assert (plan.retired, plan.champion.version, len(stores.releases.history("delay"))) == ("it is worse", 3, 4)
        assert not retire(SPEC, stores, **WHY).is_new
        assert recover(SPEC, stores, **WHY).plan.retired is None

    def test_a_version_is_forced_and_the_way_back_is_known(self, stores: Stores):
        bundled(stores, small_model(version=4))
        plan = force_release(SPEC, stores, 4, **WHY).plan
        assert (plan.champion.version, plan.forced) == (4, True)
        assert plan.last_good is not None
        assert plan.last_good.version == 3
        assert registry_of(stores).aliased("delay", "champion") == 4
        assert back(stores).plan.champion.version == 3

    def test_a_damaged_version_is_not_even_forced(self, stores: Stores):
        damaged(stores)
        with pytest.raises(RollbackRefused, match="cannot be relied on"):
            force_release(SPEC, stores, 1, **WHY)

    @pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
    def test_without_a_release_there_is_nothing_to_change(self, tmp_path: Path, verb: Verb):
        with pytest.raises(ChangeRefused, match="has no release that could be changed"):
            verb(stores_in(tmp_path / "empty"), "d-1")


class Stopped(BaseException):
    """The process died here."""


STEPS = {
    "before the plan is published": (ReleaseStore, "publish", False),
    "when the plan is published": (ReleaseStore, "publish", True),
    "before the alias moves": (confirm, "move_champion", False),
    "when the alias has moved": (confirm, "move_champion", True),
    "before the workers are waited for": (confirm, "wait_until_live", False),
    "when the workers have it": (confirm, "wait_until_live", True),
    "when it is tested": (confirm, "smoke_test", True),
    "at the end": (confirm, "confirm", True),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
@pytest.mark.parametrize(("place", "name", "late"), STEPS.values(), ids=STEPS)
def test_a_stop_between_any_two_steps_and_the_same_decision_again_are_one_change(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, verb: Verb, place: Any, name: str, late: bool
):
    whole = getattr(place, name)

    def stopping(*given: Any, **named: Any) -> Any:
        if late:
            whole(*given, **named)
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(place, name, stopping)
        moves_alias = verb in (VERBS["roll back"], VERBS["force"])
        if name == "move_champion" and not moves_alias:
            verb(stores, "d-1")
        else:
            with pytest.raises(Stopped):
                verb(stores, "d-1")

    changed = verb(stores, "d-1")

    plan = current(stores)
    assert changed.plan == plan
    assert (plan.release, plan.rollout) == (4, "d-1")
    assert changed.smoke.passed
    assert registry_of(stores).aliased("delay", "champion") == plan.champion.version
    assert len(registry_of(stores).moves) == 3 + moves_alias
    assert not verb(stores, "d-1").is_new


class TestTakenBack:
    @pytest.fixture
    def refusing(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """Workers refuse every release after the third, until the returned function is called."""
        refuses = [True]

        def wait(home: Home, model: str, release: int, timeout: float) -> int:
            if refuses[0]:
                raise RefusedByWorker(f"worker w refuses release {release}: no memory")
            return 2

        monkeypatch.setattr(confirm, "wait_until_live", wait)
        return lambda: refuses.__setitem__(0, False)

    @pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
    def test_what_workers_refuse_is_taken_back_whole(self, stores: Stores, verb: Verb, refusing: Callable[[], None]):
        before = current(stores)
        with pytest.raises(
            ChangeFailed,
            match=r"release 4 does not hold: worker w refuses release 4: no memory; version 3 serves again with release 5",
        ):
            verb(stores, "d-1")
        after = current(stores)
        assert (after.release, after.champion, after.rollout) == (5, before.champion, before.rollout)
        assert (after.masked, after.withdrawn, after.retired, after.fallen_back) == ((), (), None, False)
        assert registry_of(stores).aliased("delay", "champion") == 3

    def test_the_same_decision_may_try_again(self, stores: Stores, refusing: Callable[[], None]):
        with pytest.raises(ChangeFailed):
            back(stores, origin="d-1")
        refusing()
        changed = back(stores, origin="d-1")
        assert (changed.plan.release, changed.plan.champion.version, changed.workers) == (6, 2, 2)

    def test_a_wrong_answer_is_taken_back_as_well(self, stores: Stores, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(confirm, "smoke_test", lambda stores, plan: SmokeTest(False, "golden rows differ"))
        with pytest.raises(ChangeFailed, match="golden rows differ; version 3 serves again"):
            back(stores)

    @pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
    def test_what_a_worker_has_not_got_to_yet_stays_and_is_waited_for_again(
        self, stores: Stores, verb: Verb, monkeypatch: pytest.MonkeyPatch
    ):
        """Half the workers on the good version once were put back on the bad one, because the others were late."""

        def late(home: Home, model: str, release: int, timeout: float) -> int:
            raise NotLive("after 30 s release 4 is not loaded by w (release 3)")

        with monkeypatch.context() as patch:
            patch.setattr(confirm, "wait_until_live", late)
            with pytest.raises(ChangeFailed, match=r"not loaded by w \(release 3\); it stays in force"):
                verb(stores, "d-1")
        assert (current(stores).release, current(stores).rollout) == (4, "d-1")
        changed = verb(stores, "d-1")
        assert (changed.is_new, changed.plan) == (False, current(stores))

    def test_what_was_in_force_before_is_not_taken_back(self, stores: Stores, refusing: Callable[[], None]):
        with pytest.raises(ChangeFailed, match="it was in force before, and stays"):
            back(stores, 3)
        assert current(stores).release == 3

    def test_one_that_workers_refuse_again_and_again_is_gone_on_without(
        self, stores: Stores, refusing: Callable[[], None]
    ):
        """A standby that no worker could load was once put into service and taken back every few seconds, for ever."""
        tried = []
        for _ in range(4):
            with pytest.raises(ChangeFailed):
                back(stores, origin="d-1")
            tried.append(stores.releases.history("delay")[-2].champion.version)
        assert tried == [2, 2, 1, 1]
        refusing()
        plan = back(stores, origin="d-1").plan
        assert (plan.champion.version, plan.last_good) == (2, None), "the third time for each of them, and one left"
        assert "version 1 was tried 2 times, and workers have refused it" in plan.reason

    def test_in_the_end_it_is_refused(self, stores: Stores, refusing: Callable[[], None]):
        for _ in range(3):
            with pytest.raises(ChangeFailed):
                back(stores, 1, origin="d-1")
        with pytest.raises(RollbackRefused, match="version 1 was tried 3 times, and workers have refused it"):
            back(stores, 1, origin="d-1")
        refusing()
        assert back(stores, 1, origin="d-2").plan.champion.version == 1, "another decision may try it again"


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


class TestMeanwhile:
    def test_what_has_been_superseded_is_not_done_again(self, stores: Stores):
        back(stores, origin="d-1")
        released(stores, 4)
        changed = back(stores, origin="d-1")
        assert (changed.plan.release, changed.is_new, changed.superseded_by) == (4, False, 5)
        assert current(stores).champion.version == 4
        assert registry_of(stores).aliased("delay", "champion") == 4

    def test_two_attempts_at_once_are_one_change(self, stores: Stores, monkeypatch: pytest.MonkeyPatch):
        whole = ReleaseStore.publish

        def first_somebody_else(self: ReleaseStore, plan: ReleasePlan) -> None:
            monkeypatch.setattr(ReleaseStore, "publish", whole)
            whole(self, plan)
            whole(self, plan)

        monkeypatch.setattr(ReleaseStore, "publish", first_somebody_else)
        changed = back(stores, origin="d-1")
        assert (changed.is_new, changed.plan.release, current(stores).release) == (False, 4, 4)

    def test_a_plan_of_somebody_else_in_between_is_followed(self, stores: Stores, monkeypatch: pytest.MonkeyPatch):
        whole = ReleaseStore.publish

        def first_a_mask(self: ReleaseStore, plan: ReleasePlan) -> None:
            monkeypatch.setattr(ReleaseStore, "publish", whole)
            mask(SPEC, stores, ("temp",), **WHY, origin="d-other")
            whole(self, plan)

        monkeypatch.setattr(ReleaseStore, "publish", first_a_mask)
        changed = back(stores, origin="d-1")
        assert (changed.plan.release, changed.plan.champion.version, changed.plan.masked) == (5, 2, ("temp",))


def test_a_released_bundle_is_named_by_its_plan_when_the_registry_is_out_of_reach(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(registry_of(stores), "versions", lambda model: pytest.fail("the registry was asked"))
    assert back(stores, 1).plan.champion == Release(1, stores.releases.get("delay", 1).champion.bundle)
