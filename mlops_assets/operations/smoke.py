"""Does what is in service answer as it should? The golden rows of the champion, asked over HTTP where a service runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.core.scoring.scorer import CompiledScorer, GoldenRows, ScorerError, differences
from mlops_assets.operations.client import PredictionClient, ServiceError
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE

TOLERANCE = 1e-12


@dataclass(frozen=True)
class SmokeTest:
    """Whether the champion answered its golden rows exactly, and how that was found out."""

    passed: bool
    why: str


def smoke_test(stores: Stores, plan: ReleasePlan) -> SmokeTest:
    """Ask the running service for the champion's golden rows; where none runs, ask the bundle itself.

    The requests are marked as probes: the service answers and logs them as such, and no monitor or training counts them.
    """
    bundle = stores.bundles.get(plan.champion.bundle)
    golden = GoldenRows.from_json(bundle.files["golden.json"])
    url = stores.home.service_url()
    # The address may be left of a supervisor that was killed: somebody answers there when a worker still says so.
    if url is not None and stores.workers.live(datetime.now(UTC), HEARTBEAT_MAX_AGE):
        return _ask_service(url, plan, bundle.manifest, golden)
    if bundle.manifest.uncompiled is not None:
        return SmokeTest(
            True, "no service runs; the bundle is whole, and scikit-learn will answer its golden rows when it is loaded"
        )
    try:
        golden.verify(CompiledScorer.from_files(bundle.files["scorer.npz"], bundle.files["scorer.json"]))
    except ScorerError as error:
        return SmokeTest(False, str(error))
    return SmokeTest(True, f"no service runs; the bundle answers its {len(golden.rows)} golden rows exactly")


def _ask_service(url: str, plan: ReleasePlan, manifest: Manifest, golden: GoldenRows) -> SmokeTest:
    rows = [{"features": _as_request(manifest, row), "probe": True} for row in golden.rows]
    try:
        with PredictionClient(url) as client:
            answers = client.predict_many(plan.model, rows)
            release = client.predict(plan.model, rows[0])["release"]
    except (ServiceError, httpx.HTTPError) as error:
        return SmokeTest(False, f"{url}: {error}")
    if release != plan.release:
        return SmokeTest(False, f"{url} answers from release {release}, not {plan.release}")
    apart = differences(np.array([outputs_of(answer) for answer in answers]), np.array(golden.outputs)).max()
    return SmokeTest(
        bool(apart <= TOLERANCE), f"{url} answers {len(rows)} golden rows of version {manifest.version} to {apart:.1g}"
    )


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
