"""Changes of who answers in a running service, with several workers and callers that never pause."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest

from mlops_assets.core.scoring.scorer import Engine
from mlops_assets.operations import rollback
from mlops_assets.operations.plan_changes import ChangeFailed
from mlops_assets.operations.rollback import fall_back, mask, recover, retire, roll_back
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import running_service
from mlops_assets.operations.whole_bundles import ProvenBundle
from mlops_assets.stores.registry import Registry
from mlops_assets_tests.operations.rollback_examples import released, stores_in
from mlops_assets_tests.serving.factory import corrupt, small_model, small_spec
from mlops_assets_tests.waiting import wait_until

SPEC = small_spec()
ROW = small_model().request_rows(1)[0]


def why() -> dict[str, Any]:
    return {"reason": "it is worse", "decided_by": "sensor:tests", "now": datetime.now(UTC)}


@dataclass
class Load:
    """What callers got: status, version, role and when (monotonic seconds) of each answer, in their order."""

    answers: list[tuple[int, int | None, str | None, float]] = field(default_factory=list)

    @property
    def statuses(self) -> set[int]:
        return {status for status, *_ in self.answers}

    def last_of(self, version: int) -> float:
        return max(at for _, answered, _, at in self.answers if answered == version)

    def first_of(self, version: int, since: float) -> float:
        return min(at for _, answered, _, at in self.answers if answered == version and at >= since)


@contextmanager
def under_load(url: str, callers: int = 3) -> Iterator[Load]:
    load, stopping = Load(), threading.Event()

    def call() -> None:
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
            while not stopping.is_set():
                answer = client.post("/v1/models/delay/predict", json={"features": ROW})
                body = answer.json()
                load.answers.append((answer.status_code, body.get("model_version"), body.get("role"), time.monotonic()))

    threads = [threading.Thread(target=call, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(load.answers) > 50)
        yield load
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    stores = stores_in(tmp_path_factory.mktemp("service"))
    released(stores, 1, 2)
    return stores


@pytest.fixture(scope="module")
def url(stores: Stores) -> Iterator[str]:
    with running_service(stores.home, workers=2, ready_timeout=180) as url:
        yield url


@pytest.mark.slow
def test_a_rollback_under_load_fails_no_request_and_all_workers_follow(stores: Stores, url: str):
    plan = released(stores, 3)
    with under_load(url) as load:
        wait_until(lambda: load.answers[-1][1] == 3)
        begin = time.monotonic()
        changed = roll_back(SPEC, stores, None, **why(), origin="d-load")
        done = time.monotonic()
        reach = len(load.answers) + 100
        wait_until(lambda: len(load.answers) > reach)
    assert load.statuses == {200}
    assert (changed.workers, changed.plan.champion.version, changed.former) == (2, 2, plan.champion.version)
    assert load.last_of(3) <= done, "every worker was waited for: nobody is answered by the bad version afterwards"
    told = (
        f"first answer of the earlier version after {load.first_of(2, begin) - begin:.2f} s, last of the bad one after "
        f"{load.last_of(3) - begin:.2f} s, done after {done - begin:.2f} s, {len(load.answers)} answers"
    )
    logging.getLogger(__name__).info(told)


@pytest.mark.slow
def test_each_change_reaches_the_callers_and_is_proven(stores: Stores, url: str):
    path = f"{url}/v1/models/delay/predict"

    def ask() -> httpx.Response:
        return httpx.post(path, json={"features": ROW}, timeout=10, trust_env=False)

    before = ask().json()
    masked = mask(SPEC, stores, ("temp", "distance"), **why())
    assert (masked.workers, masked.smoke.passed) == (2, True)
    without = {name: value for name, value in ROW.items() if name != "temp"}
    assert {"temp", "distance"} <= set(ask().json()["imputed"])
    mask(SPEC, stores, ("temp",), **why())
    answer = ask().json()
    mask(SPEC, stores, (), **why())
    plain = httpx.post(path, json={"features": without}, timeout=10, trust_env=False).json()
    assert (answer["probability"], answer["imputed"]) == (plain["probability"], plain["imputed"])

    fall_back(SPEC, stores, **why())
    assert (ask().json()["role"], ask().json()["probability"]) == ("fallback", 0.25)
    recover(SPEC, stores, **why())
    assert ask().json()["probability"] == before["probability"]

    gone = retire(SPEC, stores, **{**why(), "reason": "nobody asks"})
    assert "answers 410" in gone.smoke.why
    assert ask().status_code == 410
    assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    recover(SPEC, stores, **why())
    assert ask().json()["probability"] == before["probability"]


@pytest.mark.slow
def test_what_the_workers_cannot_load_is_taken_back_and_no_caller_notices(
    stores: Stores, url: str, monkeypatch: pytest.MonkeyPatch
):
    """The disk loses the bundle between the proof and the workers' loading of it."""
    released(stores, 4)
    whole = rollback.prove

    def prove(stores: Stores, model: str, release: Any, engine: Engine) -> ProvenBundle:
        proven = whole(stores, model, release, engine)
        corrupt(stores.home, release.bundle)
        return proven

    monkeypatch.setattr(rollback, "prove", prove)
    with under_load(url) as load:
        with pytest.raises(ChangeFailed, match=r"refuses release .* damaged.*version 4 serves again"):
            roll_back(SPEC, stores, 1, **why())
        reach = len(load.answers) + 50
        wait_until(lambda: len(load.answers) > reach)
    assert load.statuses == {200}
    assert load.answers[-1][1] == 4
    answer = httpx.get(f"{url}/v1/models", trust_env=False).json()
    wait_until(lambda: httpx.get(f"{url}/v1/models", trust_env=False).json()["errors"] == {})
    assert answer["models"][0]["version"] == 4


@pytest.mark.slow
def test_a_lost_bundle_is_fetched_from_mlflow(tmp_path: Path):
    """The real registry: what was logged to the run of a version, verified, and the alias with its history."""
    stores = stores_in(tmp_path / "home")
    first, second = released(stores, 1), released(stores, 2)
    registry = Registry.local(tmp_path / "mlflow")
    experiment, client = registry.experiment("delay"), registry.client
    client.create_registered_model("delay")
    for plan in (first, second):
        run = client.create_run(experiment).info.run_id
        name = plan.champion.bundle.removeprefix("sha256:")
        registry.log_folder(run, stores.bundles.path(plan.champion.bundle), f"bundles/{name}")
        client.create_model_version("delay", source=f"runs:/{run}/model", run_id=run)
    stores.__dict__["registry"] = registry
    corrupt(stores.home, first.champion.bundle, "scorer.json")
    changed = roll_back(SPEC, stores, None, **why())
    assert changed.plan.champion == first.champion
    assert stores.bundles.get(first.champion.bundle).id == first.champion.bundle
    assert registry.aliased("delay", "champion") == 1
    (move,) = registry.alias_history("delay", "champion")
    assert (move.version, move.reason, move.at) == (1, "it is worse", changed.plan.decided_at)
    assert mlflow.active_run() is None
