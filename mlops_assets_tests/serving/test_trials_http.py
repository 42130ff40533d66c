"""Canary, shadow and standby in a real server of two workers, asked by callers over HTTP."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from scipy import stats

from mlops_assets.core.contract import make_contract
from mlops_assets.core.imputation import make_plan
from mlops_assets.core.records import PredictionRecord
from mlops_assets.core.rollout import BreakerLimits, Entrant, Origin, Release, Split, limited, promoted, trial
from mlops_assets.core.scoring.compile import compile_pipeline
from mlops_assets.core.scoring.scorer import GoldenRows
from mlops_assets.core.training import fit_pipeline
from mlops_assets.drills.caller import Caller, Tally
from mlops_assets.drills.verify import verify
from mlops_assets.operations.confirm import DoesNotAnswer, confirm
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE, running_service
from mlops_assets.stores.workers import LoadedRelease
from mlops_assets_tests.operations.rollback_examples import bundled, released, stores_in
from mlops_assets_tests.serving.factory import (
    START,
    SmallModel,
    corrupt,
    manifest_of,
    release,
    small_model,
    small_rows,
    small_spec,
)
from mlops_assets_tests.waiting import wait_until

SPEC = small_spec()
ROW = small_model().request_rows(1)[0]
ENTITIES = [f"N{number}" for number in range(400)]
SHARE = 0.3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    stores = stores_in(tmp_path_factory.mktemp("trials"))
    released(stores, 1)
    release(stores.home, small_model("air", "regression"))
    return stores


@pytest.fixture(scope="module")
def url(stores: Stores) -> Iterator[str]:
    with running_service(stores.home, workers=2, ready_timeout=300) as url:
        yield url


def origin(name: str) -> Origin:
    return Origin(name, "a test", "user:tests", datetime.now(UTC))


def asked(url: str, tally: Tally, entities: list[str], row: dict[str, Any] = ROW, model: str = "delay") -> list[Any]:
    """The answers for these entities, over connections to both workers."""

    def ask(part: list[str]) -> list[Any]:
        answers = []
        for entity in part:
            with Caller(url, tally) as caller:  # a connection each, as they spread over the workers
                answers.append((entity, caller.predict(model, {"features": row, "entity": entity})))
        return answers

    with ThreadPoolExecutor(4) as pool:
        return [one for part in pool.map(ask, [entities[start::4] for start in range(4)]) for one in part]


def reports(stores: Stores, model: str = "delay") -> list[LoadedRelease]:
    return [one.models[model] for one in stores.workers.live(datetime.now(UTC), HEARTBEAT_MAX_AGE)]


def logged(stores: Stores, release_number: int) -> list[PredictionRecord]:
    records = [one for one in stores.log.records("delay") if isinstance(one, PredictionRecord)]
    return [one for one in records if one.release == release_number and not one.probe]


def test_a_canary_answers_its_share_in_both_workers_and_everything_is_on_record(stores: Stores, url: str):
    current = stores.releases.current("delay")
    assert current is not None
    plan = trial(current, bundled(stores, small_model(version=2)), "canary", SHARE, origin("r-canary"), "pepper")
    stores.releases.publish(plan)
    assert confirm(SPEC, stores, plan)[0] == 2
    tally = Tally()
    inside = Split("pepper", SHARE)
    for _ in range(2):
        answers = asked(url, tally, ENTITIES)
        for entity, answer in answers:
            assert (answer["role"], answer["model_version"]) == (
                ("challenger", 2) if inside(entity) else ("champion", 1)
            )
    theirs = sum(answer["role"] == "challenger" for _, answer in answers)
    assert stats.binomtest(theirs, len(ENTITIES), SHARE).pvalue > 1e-3
    assert (tally.failed, tally.refused, tally.unanswered) == (0, 0, 0)
    found = verify(stores, tally.acknowledged, 0)
    assert (found.acknowledged, found.lost, found.wrong) == (800, 0, 0), found.examples
    assert len(logged(stores, plan.release)) == 800
    wait_until(lambda: sum(one.challenger.counts.answered for one in reports(stores) if one.challenger) == 2 * theirs)
    assert all(one.counts.answered for one in reports(stores)), "both workers were asked"


def test_a_shadow_is_on_record_for_every_answer_and_gave_none(stores: Stores, url: str):
    current = stores.releases.current("delay")
    assert current is not None
    plan = trial(current, bundled(stores, small_model(version=2)), "shadow", 1.0, origin("r-shadow"), "pepper")
    stores.releases.publish(plan)
    confirm(SPEC, stores, plan)
    tally = Tally()
    answers = asked(url, tally, ENTITIES)
    assert {(answer["role"], answer["model_version"]) for _, answer in answers} == {("champion", 1)}
    wait_until(lambda: len(logged(stores, plan.release)) == 2 * len(ENTITIES))
    shadows = [one for one in logged(stores, plan.release) if one.role == "shadow"]
    assert {one.id for one in shadows} == {answer["prediction_id"] for _, answer in answers}
    assert {(one.version, one.status) for one in shadows} == {(2, 200)}
    found = verify(stores, tally.acknowledged, 0)
    assert (found.lost, found.wrong) == (0, 0), found.examples


def test_a_challenger_that_no_worker_can_load_is_found_out_and_the_champion_answers(stores: Stores, url: str):
    current = stores.releases.current("delay")
    assert current is not None
    broken = bundled(stores, small_model(version=3))
    corrupt(stores.home, broken.release.bundle)
    free = msgspec.structs.replace(current, challenger=None)
    plan = trial(free, broken, "canary", 1.0, origin("r-broken"), "pepper")
    stores.releases.publish(plan)
    with pytest.raises(DoesNotAnswer, match=r"refuses the challenger, version 3: .*damaged"):
        confirm(SPEC, stores, plan)
    assert {answer["role"] for _, answer in asked(url, Tally(), ENTITIES[:20])} == {"champion"}


def test_a_champion_that_gives_no_numbers_is_stood_in_for_and_no_request_fails(stores: Stores, url: str):
    """A linear model overflows where the caller's number is huge; the trees of the standby do not mind."""
    current = stores.releases.current("air")
    assert current is not None
    linear = linear_model()
    entrant = Entrant(Release(2, stores.bundles.put(linear.manifest, linear.files)), linear.features, 0.0, START)
    plan = limited(
        promoted(current, entrant, START, origin("r-linear")),
        BreakerLimits(min_requests=5, window=10, open_s=0.5, probes=2),
    )
    stores.releases.publish(plan)
    spec = small_spec("air", "regression")
    confirm(spec, stores, plan)
    row = linear.request_rows(1)[0]
    tally = Tally()
    assert {answer["role"] for _, answer in asked(url, tally, ENTITIES[:40], row, "air")} == {"champion"}
    answers = asked(url, tally, ENTITIES[:200], {**row, "distance": 1e308}, "air")
    assert {(answer["role"], answer["model_version"], answer["degraded"]) for _, answer in answers} == {
        ("standby", 1, True)
    }
    assert (len(tally.acknowledged), tally.failed, tally.refused, tally.unanswered) == (240, 0, 0, 0)
    wait_until(lambda: sum(one.breaker.trips for one in reports(stores, "air")) >= 1)
    assert sum(one.counts.failed for one in reports(stores, "air")) >= 5
    metrics = httpx.get(f"{url}/metrics", trust_env=False, timeout=10).text
    assert 'mlops_breaker_trips_total{model="air",version="2"}' in metrics
    found = verify(stores, tally.acknowledged, 0)
    assert (found.lost, found.wrong) == (0, 0), found.examples

    def well_again() -> bool:
        asked(url, tally, ENTITIES[:8], row, "air")
        return all(one.breaker.state == "closed" for one in reports(stores, "air"))

    wait_until(well_again, timeout_s=60)
    assert {answer["role"] for _, answer in asked(url, tally, ENTITIES[:40], row, "air")} == {"champion"}
    assert tally.failed == 0


def linear_model() -> SmallModel:
    """Version 2 of the regression, with coefficients so large that a huge number overflows."""
    spec = small_spec(
        "air", "regression", training={"estimator": "sklearn.linear_model.LinearRegression", "holdout": "5d"}
    )
    rows, fresh = (small_rows("regression", count, seed) for count, seed in ((1500, 2), (400, 1002)))
    rows["outcome"] = rows["outcome"] * 1e6
    plan = make_plan(spec, rows)
    pipeline = fit_pipeline(spec, rows, plan, ())
    contract = make_contract(spec, rows)
    scorer = compile_pipeline(pipeline, contract)
    npz, layout = scorer.to_files()
    names = list(spec.feature_names)
    golden = [
        [None if value is None or value != value else value for value in row]
        for row in fresh[names].tail(5).astype(object).itertuples(index=False)
    ]
    files = {"scorer.npz": npz, "scorer.json": layout, "golden.json": GoldenRows.make(scorer, golden).to_json()}
    assert not np.isfinite(scorer.score_rows([[50.0, 100.0, 0.0, "AA", "JFK", 1e308]])).all()
    return SmallModel(spec, pipeline, manifest_of(spec, rows, plan, (), 2, START, START), files, fresh)
