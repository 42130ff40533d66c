"""What a plan with a challenger waits for, and that the declared limits of the breaker come with every plan."""

import os
import socket
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from mlops_assets.core.rollout import BreakerLimits, Origin, ReleasePlan, masking, trial
from mlops_assets.core.spec.release import BreakerSpec
from mlops_assets.operations.confirm import DoesNotAnswer, confirm
from mlops_assets.operations.plan_changes import carry_out
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.workers import LoadedRelease, LoadedVersion, WorkerState
from mlops_assets_tests.operations.rollback_examples import bundled, released, stores_in
from mlops_assets_tests.serving.factory import small_model, small_spec

SPEC = small_spec()
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
