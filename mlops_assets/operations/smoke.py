"""Does what is in service answer as it should? The golden rows of the champion, asked over HTTP where a service runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.metrics import Floats
from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.core.scoring.degraded import CannotDegrade, constant_output, mask_of
from mlops_assets.core.scoring.load import load_scorer
from mlops_assets.core.scoring.scorer import CompiledScorer, GoldenRows, ScorerError, differences
from mlops_assets.operations.client import PredictionClient, ServiceError, http_client
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE
from mlops_assets.stores.bundles import Bundle

TOLERANCE = 1e-12


@dataclass(frozen=True)
class SmokeTest:
    """Whether the champion answered its golden rows exactly, and how that was found out."""

    passed: bool
    why: str


def smoke_test(stores: Stores, plan: ReleasePlan) -> SmokeTest:
    """Ask the running service for the champion's golden rows; where none runs, ask the bundle itself.

    What is expected follows from the plan: the golden answers, those without the values that are taken for missing, the
    constant of a fallback, or that the model is out of service. The requests are marked as probes: the service answers and
    logs them as such, and no monitor or training counts them.
    """
    url = stores.home.service_url()
    # The address may be left of a supervisor that was killed: somebody answers there when a worker still says so.
    serving = url is not None and stores.workers.live(datetime.now(UTC), HEARTBEAT_MAX_AGE)
    if plan.retired is not None:
        return _is_gone(url, stores, plan) if url is not None and serving else SmokeTest(True, "no service runs")
    bundle = stores.bundles.get(plan.champion.bundle)
    manifest, golden = bundle.manifest, GoldenRows.from_json(bundle.files["golden.json"])
    try:
        if url is not None and serving:
            return _ask_service(url, stores, plan, manifest, golden, _expected(plan, bundle, golden))
        if manifest.uncompiled is not None:
            what = "the bundle is whole, and scikit-learn will answer its golden rows when it is loaded"
            return SmokeTest(True, f"no service runs; {what}")
        golden.verify(CompiledScorer.from_files(bundle.files["scorer.npz"], bundle.files["scorer.json"]))
    except (ScorerError, CannotDegrade) as error:
        return SmokeTest(False, str(error))
    return SmokeTest(True, f"no service runs; the bundle answers its {len(golden.rows)} golden rows exactly")


def _expected(plan: ReleasePlan, bundle: Bundle, golden: GoldenRows) -> Floats:
    if plan.fallen_back:
        return np.array([constant_output(bundle.manifest, plan.fallback_value)] * len(golden.rows))
    if not plan.masked:
        return np.array(golden.outputs)
    mask = mask_of(bundle.manifest, plan.masked)
    return load_scorer(bundle.manifest, bundle.files).score_rows([mask(row) for row in golden.rows])


def _ask_service(
    url: str, stores: Stores, plan: ReleasePlan, manifest: Manifest, golden: GoldenRows, expected: Floats
) -> SmokeTest:
    rows = [{"features": _as_request(manifest, row), "probe": True} for row in golden.rows]
    try:
        with PredictionClient(url, home=stores.home) as client:
            answers = client.predict_many(plan.model, rows)
            release = client.predict(plan.model, rows[0])["release"]
    except (ServiceError, httpx.HTTPError) as error:
        return SmokeTest(False, f"{url}: {error}")
    if release != plan.release:
        return SmokeTest(False, f"{url} answers from release {release}, not {plan.release}")
    apart = differences(np.array([outputs_of(answer) for answer in answers]), expected).max()
    return SmokeTest(
        bool(apart <= TOLERANCE), f"{url} answers {len(rows)} golden rows of version {manifest.version} to {apart:.1g}"
    )


def _is_gone(url: str, stores: Stores, plan: ReleasePlan) -> SmokeTest:
    """Is a model that was retired refused with 410?"""
    try:
        with http_client(url, stores.home, timeout_s=30) as client:
            answer = client.post(f"/v1/models/{plan.model}/predict", json={"probe": True})
    except httpx.HTTPError as error:
        return SmokeTest(False, f"{url}: {error}")
    return SmokeTest(answer.status_code == httpx.codes.GONE, f"{url} answers {answer.status_code} for {plan.model}")


def _as_request(manifest: Manifest, row: Sequence[Any]) -> dict[str, Any]:
    """A raw row as a caller sends it; the scorer knows booleans as 0 and 1."""
    return {
        feature.name: bool(value) if feature.type == "boolean" and value is not None else value
        for feature, value in zip(manifest.features, row, strict=True)
    }


def outputs_of(answer: dict[str, Any]) -> list[float]:
    """Class probabilities, or the one value, of an answer of the service."""
    if "probability" in answer:
        return [1.0 - answer["probability"], answer["probability"]]
    if "probabilities" in answer:
        return list(answer["probabilities"].values())
    return [answer["prediction"]]
