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
from mlops_assets.operations.client import http_client
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE
from mlops_assets.operations.whole_bundles import whole_bundle
from mlops_assets.stores.bundles import Bundle, BundleError

TOLERANCE = 1e-12
ASK_TIMEOUT_S = 10.0
# What the version itself makes of its golden rows. Any other status is about the service: it is busy, behind, or lets nobody in.
_OF_THE_VERSION = frozenset(
    {httpx.codes.OK, httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY, httpx.codes.INTERNAL_SERVER_ERROR}
)


class NotAnswered(RuntimeError):
    """The service could not be asked for what a plan says: busy, behind or out of reach. Nothing speaks against the plan."""


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

    Raises
    ------
    NotAnswered
        When the service turns the request away, does not answer in time, or answers from another release.
    """
    url = stores.home.service_url()
    # The address may be left of a supervisor that was killed: somebody answers there when a worker still says so.
    serving = url is not None and stores.workers.live(datetime.now(UTC), HEARTBEAT_MAX_AGE)
    if plan.retired is not None:
        return _is_gone(url, stores, plan) if url is not None and serving else SmokeTest(True, "no service runs")
    try:
        bundle = whole_bundle(stores, plan.model, plan.champion)
        manifest, golden = bundle.manifest, GoldenRows.from_json(bundle.files["golden.json"])
        if url is not None and serving:
            return _ask_service(url, stores, plan, manifest, golden, _expected(plan, bundle, golden))
        if manifest.uncompiled is not None:
            what = "the bundle is whole, and scikit-learn will answer its golden rows when it is loaded"
            return SmokeTest(True, f"no service runs; {what}")
        golden.verify(CompiledScorer.from_files(bundle.files["scorer.npz"], bundle.files["scorer.json"]))
    except (BundleError, ScorerError, CannotDegrade) as error:
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
    answer = _post(url, stores, plan, {"rows": rows})
    if answer.status_code not in _OF_THE_VERSION:
        raise NotAnswered(f"{url} answers {answer.status_code}: {answer.text[:500]}")
    if answer.is_error:
        return SmokeTest(False, f"{url} answers {answer.status_code} to the golden rows: {answer.text[:500]}")
    body = answer.json()
    if body["release"] != plan.release:
        raise NotAnswered(f"{url} answers from release {body['release']}, not {plan.release}")
    apart = differences(np.array([outputs_of(one) for one in body["predictions"]]), expected).max()
    if apart <= TOLERANCE:
        return SmokeTest(True, f"{url} answers {len(rows)} golden rows of version {manifest.version} to {apart:.1g}")
    return SmokeTest(False, f"{url} answers golden rows of version {manifest.version} otherwise, by {apart:.1g}")


def _is_gone(url: str, stores: Stores, plan: ReleasePlan) -> SmokeTest:
    """Is a model that was retired refused with 410?"""
    answer = _post(url, stores, plan, {"probe": True})
    what = f"{url} answers {answer.status_code} for {plan.model}"
    if answer.status_code != httpx.codes.GONE:
        raise NotAnswered(f"{what}, which is out of service")
    return SmokeTest(True, what)


def _post(url: str, stores: Stores, plan: ReleasePlan, body: dict[str, Any]) -> httpx.Response:
    try:
        with http_client(url, stores.home, ASK_TIMEOUT_S) as client:
            return client.post(f"/v1/models/{plan.model}/predict", json=body)
    except httpx.HTTPError as error:
        raise NotAnswered(f"{url}: {type(error).__name__}: {error}") from error


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
