"""A fresh release watched by the heartbeats of its workers."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlops_assets.core.rollout import Challenger
from mlops_assets.core.service_counts import LATENCY_BOUNDS_MS, ServiceCounts
from mlops_assets.operations.guard import watch_release
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.home import Home
from mlops_assets.stores.workers import LoadedRelease, WorkerState
from mlops_assets_tests.serving.factory import release, small_model, small_spec

SPEC = small_spec(response={"service": {"failed": 0.05, "latency_ms": 100, "min_requests": 50, "watch": "1h"}})
BAD = ServiceCounts(answered=20, failed=10)


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    stores = Stores(Home(tmp_path))
    release(stores.home, small_model(version=1))
    release(stores.home, small_model(version=2))
    return stores


def report(stores: Stores, worker: str, counts: ServiceCounts, number: int = 2, at: datetime | None = None) -> None:
    now = at or datetime.now(UTC)
    loaded = {"delay": LoadedRelease(number, number, "sha256:x", now, counts)}
    stores.workers.report(WorkerState(worker, os.getpid(), "another-host", now, now, loaded, {}))


def test_what_all_workers_count_together_is_judged(stores: Stores):
    report(stores, "a", BAD)
    assert watch_release(SPEC, stores, datetime.now(UTC)) is None, "30 requests are too few"
    report(stores, "b", BAD)
    finding = watch_release(SPEC, stores, datetime.now(UTC))
    assert finding is not None
    assert (finding.release, finding.version, finding.workers) == (2, 2, 2)
    assert (finding.verdict.trouble, finding.verdict.count, finding.verdict.requests) == ("errors", 20, 60)
    assert finding.counts == BAD + BAD
    plan = stores.releases.current("delay")
    assert plan is not None
    assert finding.released_at == plan.decided_at


def test_slow_answers_are_found(stores: Stores):
    slower = tuple(30 if bound <= 100 else 0 for bound in LATENCY_BOUNDS_MS)
    report(stores, "a", ServiceCounts(answered=100, slower=slower))
    finding = watch_release(SPEC, stores, datetime.now(UTC))
    assert finding is not None
    assert finding.verdict.trouble == "latency"


def test_counts_of_another_release_and_of_dead_workers_are_not_its_own(stores: Stores):
    now = datetime.now(UTC)
    report(stores, "old", BAD + BAD + BAD, number=1)
    report(stores, "dead", BAD + BAD + BAD, at=now - timedelta(minutes=1))
    report(stores, "a", ServiceCounts(answered=100))
    assert watch_release(SPEC, stores, now) is None


def test_only_a_fresh_release_is_watched(stores: Stores):
    later = datetime.now(UTC) + timedelta(hours=1, minutes=1)
    report(stores, "a", BAD + BAD + BAD, at=later)
    assert watch_release(SPEC, stores, later) is None
    assert watch_release(SPEC, stores, later - timedelta(minutes=2)) is not None


def test_a_step_of_a_trial_makes_no_old_champion_fresh(stores: Stores):
    plan = stores.releases.current("delay")
    assert plan is not None
    later = datetime.now(UTC) + timedelta(hours=2)
    trial = Challenger(3, "sha256:3", "canary", 0.1)
    stores.releases.publish(msgspec.structs.replace(plan, release=3, previous=2, challenger=trial, decided_at=later))
    report(stores, "a", BAD + BAD + BAD, number=3, at=later)
    assert watch_release(SPEC, stores, later) is None
    masked = msgspec.structs.replace(plan, release=4, previous=3, masked=("temp",), decided_at=later)
    stores.releases.publish(masked)
    report(stores, "a", BAD + BAD + BAD, number=4, at=later)
    assert watch_release(SPEC, stores, later) is not None, "what it is told to mask is new"


@pytest.mark.parametrize("changes", [{"retired": "no use"}, {"fallen_back": True}])
def test_what_no_model_answers_is_not_watched(stores: Stores, changes: dict[str, Any]):
    plan = stores.releases.current("delay")
    assert plan is not None
    stores.releases.publish(msgspec.structs.replace(plan, release=3, previous=2, **changes))
    report(stores, "a", BAD + BAD + BAD, number=3)
    assert watch_release(SPEC, stores, datetime.now(UTC)) is None


def test_no_release_and_no_worker_are_no_finding(stores: Stores, tmp_path: Path):
    assert watch_release(SPEC, stores, datetime.now(UTC)) is None
    assert watch_release(SPEC, Stores(Home(tmp_path / "empty")), datetime.now(UTC)) is None
