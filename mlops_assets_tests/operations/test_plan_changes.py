"""Each change of who answers: made once whatever stops it or gets ahead of it, and taken back where workers refuse it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlops_assets.core.rollout import Origin, ReleasePlan, trial
from mlops_assets.operations import confirm
from mlops_assets.operations.plan_changes import Changed, ChangeFailed, ChangeRefused
from mlops_assets.operations.rollback import (
    RollbackRefused,
    begin_roll_back,
    fall_back,
    force_release,
    mask,
    recover,
    retire,
    roll_back,
)
from mlops_assets.operations.smoke import SmokeTest
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import NotLive, RefusedByWorker
from mlops_assets.operations.terms import Terms
from mlops_assets.stores.home import Home
from mlops_assets.stores.releases import ReleaseStore
from mlops_assets_tests.operations.rollback_examples import (
    WHY,
    back,
    bundled,
    current,
    registry_of,
    released,
    stores_in,
    three_released,
)
from mlops_assets_tests.serving.factory import corrupt, small_model, small_spec

SPEC = small_spec()


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return three_released(tmp_path)


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
        corrupt(stores.home, stores.releases.get("delay", 1).champion.bundle)
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

    @pytest.fixture
    def followed(self, stores: Stores) -> Stores:
        """The way back is published, and a version is put on trial before anybody has proven it."""
        begin_roll_back(Terms.of(SPEC), stores, None, **WHY, origin="d-1")
        origin = Origin("r-trial", "the gates passed", "user:tests", datetime.now(UTC))
        challenger = bundled(stores, small_model(version=4))
        stores.releases.publish(trial(current(stores), challenger, "canary", 0.1, origin, "pepper"))
        return stores

    def test_what_is_followed_by_a_plan_that_answers_the_same_is_proven_by_that(self, followed: Stores):
        changed = back(followed, origin="d-1")
        assert (changed.plan.release, changed.superseded_by, changed.smoke.passed) == (4, 5, True)
        assert "no service runs" in changed.smoke.why
        assert registry_of(followed).aliased("delay", "champion") == 2

    def test_it_does_not_count_as_done_where_workers_refuse_that(
        self, followed: Stores, monkeypatch: pytest.MonkeyPatch
    ):
        """Workers went on answering from the withdrawn version, and the ledger said that it harmed no longer."""

        def refuse(home: Home, model: str, release: int, timeout: float) -> int:
            raise RefusedByWorker(f"worker w refuses release {release}: no memory")

        monkeypatch.setattr(confirm, "wait_until_live", refuse)
        hasty = small_spec(release={"confirm_timeout": timedelta(seconds=0.1)})
        with pytest.raises(ChangeFailed, match=r"release 5, which has followed .* worker w refuses release 5"):
            back(followed, spec=hasty, origin="d-1")
        assert current(followed).release == 5, "it is somebody else's, and stays"

    def test_nor_where_the_service_answers_otherwise(self, followed: Stores, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(confirm, "smoke_test", lambda stores, plan: SmokeTest(False, "golden rows differ"))
        with pytest.raises(ChangeFailed, match="is not proven: golden rows differ"):
            back(followed, origin="d-1")
