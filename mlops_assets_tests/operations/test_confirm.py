"""What a published plan is held to before it counts as proven, and what is no reason to take it back."""

import os
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from mlops_assets.core.rollout import (
    BreakerLimits,
    Origin,
    ReleasePlan,
    dismissed,
    masking,
    promoted,
    retirement,
    trial,
    widened,
)
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.spec.release import BreakerSpec
from mlops_assets.operations import smoke
from mlops_assets.operations.confirm import DoesNotAnswer, NotEverywhere, confirm
from mlops_assets.operations.plan_changes import Changed, ChangeFailed, carry_out
from mlops_assets.operations.rollback import roll_back
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.workers import LoadedRelease, LoadedVersion, WorkerState
from mlops_assets_tests.operations.faltering import Faltering, Fault
from mlops_assets_tests.operations.rollback_examples import bundled, released, stores_in
from mlops_assets_tests.serving.factory import small_model, small_spec

SPEC = small_spec()
HASTY = small_spec(release={"confirm_timeout": timedelta(seconds=0.5)})
LIMITS = {"latency_ms": 20, "open_for": "2s", "probes": 1}


def origin(name: str) -> Origin:
    return Origin(name, "a test", "user:tests", datetime.now(UTC))


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return stores_in(tmp_path)


def on_trial(stores: Stores) -> ReleasePlan:
    challenger = bundled(stores, small_model(version=2))
    plan = trial(released(stores, 1), challenger, "canary", 0.1, origin("r-trial"), "pepper")
    stores.releases.publish(plan)
    return plan


def report(
    stores: Stores, plan: ReleasePlan, worker: str, challenger: LoadedVersion | None, why: str | None = None
) -> None:
    now, champion = datetime.now(UTC), plan.champion
    refused = {} if why is None else {"challenger": why}
    loaded = LoadedRelease(plan.release, champion.version, champion.bundle, now, challenger=challenger, refused=refused)
    stores.workers.report(WorkerState(worker, os.getpid(), socket.gethostname(), now, now, {"delay": loaded}, {}))


def test_every_worker_must_have_the_challenger_that_comes_in(stores: Stores):
    plan = on_trial(stores)
    assert plan.challenger is not None
    there = LoadedVersion(2, plan.challenger.bundle, "challenger")
    report(stores, plan, "a", there)
    report(stores, plan, "b", None, "BundleError: damaged")
    with pytest.raises(DoesNotAnswer, match="worker b refuses the challenger, version 2: BundleError: damaged"):
        confirm(SPEC, stores, plan)
    report(stores, plan, "b", there)
    assert confirm(SPEC, stores, plan)[0] == 2


def test_a_challenger_that_was_on_trial_before_holds_no_other_change_up(stores: Stores):
    plan = on_trial(stores)
    masked = masking(plan, ["temp"], origin("d-mask"))
    stores.releases.publish(masked)
    report(stores, masked, "a", None, "CannotDegrade: it has nothing to fill a missing temp with")
    assert confirm(SPEC, stores, masked)[0] == 1


def test_a_standby_that_is_not_loaded_is_gone_on_without_and_told_of(stores: Stores):
    former, now = released(stores, 1), datetime.now(UTC)
    plan = promoted(former, bundled(stores, small_model(version=2)), now, origin("r-2"))
    stores.releases.publish(plan)
    loaded = LoadedRelease(2, 2, plan.champion.bundle, now, refused={"standby": "BundleError: it is lost"})
    for worker in ("a", "b"):
        state = WorkerState(worker, os.getpid(), socket.gethostname(), now, now, {"delay": loaded}, {})
        stores.workers.report(state)
    workers, smoke = confirm(SPEC, stores, plan)
    assert (workers, smoke.passed) == (2, True)
    assert smoke.why.endswith("exactly; without the standby version, 1: BundleError: it is lost")


def test_a_challenger_that_a_worker_says_nothing_of_is_waited_for(stores: Stores):
    plan = on_trial(stores)
    report(stores, plan, "a", None)
    with pytest.raises(NotEverywhere, match="worker a has not loaded the challenger, version 2"):
        confirm(HASTY, stores, plan)


def refuse(stores: Stores, release: int, worker: str = "b") -> None:
    """A worker that was started again cannot load the champion."""
    now = datetime.now(UTC)
    said, about = {"delay": "BundleError: the champion is damaged"}, {"delay": release}
    stores.workers.report(WorkerState(worker, os.getpid(), socket.gethostname(), now, now, {}, said, about))


class TestADamagedChampion:
    def test_is_no_reason_to_take_a_trial_back(self, stores: Stores):
        """The challenger was withdrawn for ever, because one worker could not load the champion."""
        plan = on_trial(stores)
        refuse(stores, plan.release)
        with pytest.raises(
            NotEverywhere, match=r"b refuses release 2 .*damaged; version 1 answered before, and it is no"
        ):
            confirm(HASTY, stores, plan)
        assert plan.challenger is not None
        timer = threading.Timer(
            0.3, report, (stores, plan, "b", LoadedVersion(2, plan.challenger.bundle, "challenger"))
        )
        timer.start()
        assert confirm(SPEC, stores, plan)[0] == 1, "it was put back meanwhile"
        timer.join()

    def test_nor_what_is_said_of_it_to_take_a_promotion_back(self, stores: Stores):
        plan = on_trial(stores)
        refuse(stores, plan.release)
        over = promoted(plan, bundled(stores, small_model(version=2)), datetime.now(UTC), origin("r-promote"))
        stores.releases.publish(over)
        with pytest.raises(NotEverywhere, match="release 3 of delay is not loaded by b"):
            confirm(HASTY, stores, over)
        refuse(stores, over.release)
        with pytest.raises(DoesNotAnswer, match="b refuses release 3"):
            confirm(HASTY, stores, over)


def dismissing(stores: Stores, spec: ModelSpec = HASTY) -> Changed:
    return carry_out(spec, stores, origin("d-1"), lambda past: dismissed(past[-1], origin("d-1"), withdraw=True))


def widening(stores: Stores, spec: ModelSpec = HASTY) -> Changed:
    return carry_out(spec, stores, origin("d-1"), lambda past: widened(past[-1], 0.5, origin("d-1")))


def going_back(stores: Stores, spec: ModelSpec = HASTY) -> Changed:
    return roll_back(spec, stores, 1, reason="", decided_by="user:tests", now=datetime.now(UTC), origin="d-1")


def retiring(stores: Stores, spec: ModelSpec = HASTY) -> Changed:
    return carry_out(spec, stores, origin("d-1"), lambda past: retirement(past[-1], "no use", origin("d-1")))


Change = Callable[..., Changed]
CHANGES: dict[str, Change] = {"a dismissal": dismissing, "a widening": widening, "a rollback": going_back}


class TestAServiceThatFalters:
    @pytest.fixture
    def tried(self, stores: Stores) -> Stores:
        """Version 1 was followed by 3, and 2 is on trial beside it with a tenth."""
        released(stores, 1, 3)
        plan = stores.releases.current("delay")
        assert plan is not None
        challenger = bundled(stores, small_model(version=2))
        stores.releases.publish(trial(plan, challenger, "canary", 0.1, origin("r-trial"), "pepper"))
        return stores

    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    @pytest.mark.parametrize("fault", [503, 429, 401, "drops", "hangs", "is behind"])
    def test_is_asked_again(self, tried: Stores, change: Change, fault: Fault, monkeypatch: pytest.MonkeyPatch):
        """One busy moment once took a dismissal back, and had the challenger's promotion withdrawn."""
        if fault == "hangs":
            monkeypatch.setattr(smoke, "ASK_TIMEOUT_S", 0.2)
        with Faltering(tried, fault) as service:
            changed = change(tried, SPEC)
        assert service.asked >= 2
        assert changed.smoke.passed
        assert tried.releases.current("delay") == changed.plan

    @pytest.mark.parametrize("change", [*CHANGES.values(), retiring], ids=[*CHANGES, "a retirement"])
    def test_for_too_long_leaves_the_change_in_force(self, tried: Stores, change: Change):
        with Faltering(tried, at_last=503) as service:
            with pytest.raises(ChangeFailed, match=r"answers 503.*; it stays in force, try again to wait for them"):
                change(tried)
            plan = tried.releases.current("delay")
            assert plan is not None
            assert (plan.release, plan.rollout) == (4, "d-1")
            service.at_last = 410 if change is retiring else None
            changed = change(tried)
        assert (changed.plan, changed.is_new, changed.smoke.passed) == (plan, False, True)

    @pytest.mark.parametrize("change", [dismissing, widening])
    def test_and_answers_wrongly_is_no_reason_to_take_back_what_does_not_touch_the_champion(
        self, tried: Stores, change: Change
    ):
        with Faltering(tried, at_last="lies"):
            changed = change(tried)
        assert not changed.smoke.passed
        assert "answers golden rows of version 3 otherwise, by 0.3" in changed.smoke.why
        assert tried.releases.current("delay") == changed.plan

    @pytest.mark.parametrize("fault", ["lies", 500, 422])
    def test_and_a_new_champion_that_answers_wrongly_is_taken_back(self, tried: Stores, fault: Fault):
        with Faltering(tried, at_last=fault), pytest.raises(ChangeFailed, match="version 3 serves again"):
            going_back(tried)

    def test_and_a_plan_that_is_followed_by_another_meanwhile_is_not_waited_for(self, tried: Stores):
        plan = tried.releases.current("delay")
        assert plan is not None
        tried.releases.publish(masking(plan, ["temp"], origin("d-mask")))
        with Faltering(tried):
            assert confirm(HASTY, tried, plan)[1].why == "release 4 has followed since, and is asked for instead"


def test_the_declared_limits_come_with_each_plan(stores: Stores):
    released(stores, 1)
    spec = small_spec(release={"breaker": LIMITS})
    plan = carry_out(spec, stores, origin("d-1"), lambda history: masking(history[-1], ["temp"], origin("d-1"))).plan
    assert plan.breaker == BreakerLimits(latency_ms=20.0, open_s=2.0, probes=1)
    plan = carry_out(SPEC, stores, origin("d-2"), lambda history: masking(history[-1], [], origin("d-2"))).plan
    assert plan.breaker is None
    assert msgspec.json.decode(msgspec.json.encode(plan), type=ReleasePlan) == plan


def test_limits_that_can_never_be_reached_are_refused():
    with pytest.raises(ValueError, match="60 requests are never among the last 50: lower 'min_requests'"):
        BreakerSpec(min_requests=60)
