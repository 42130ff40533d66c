"""One predict request, from its body to the answer: decode, score, append to the log, reply. HTTP itself is in `app.py`."""

import asyncio
import math
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import msgspec
import uuid_utils

from mlops_assets.core.records import PredictionRecord
from mlops_assets.core.scoring.scorer import Scorer, ScorerError
from mlops_assets.serving.contract import OneOrMany, PredictItem, RawRow
from mlops_assets.serving.errors import Refusal
from mlops_assets.serving.settings import ServingSettings
from mlops_assets.serving.state import LiveModel

_OFF_LOOP_ROWS = 256
_ENCODE = msgspec.json.Encoder().encode


class Outcome(msgspec.Struct):
    """What was answered for one row; `probability` is that of the positive (last) class of two."""

    prediction_id: str
    prediction: float | int | str
    probability: float | msgspec.UnsetType
    probabilities: dict[str, float] | msgspec.UnsetType
    imputed: tuple[str, ...]
    out_of_domain: tuple[str, ...]


class OneAnswer(msgspec.Struct):
    """The answer to a request with one row."""

    prediction_id: str
    model: str
    model_version: int
    release: int
    role: str
    prediction: float | int | str
    probability: float | msgspec.UnsetType
    probabilities: dict[str, float] | msgspec.UnsetType
    imputed: tuple[str, ...]
    out_of_domain: tuple[str, ...]


class ManyAnswers(msgspec.Struct):
    """The answer to a request with a list of rows, in their order."""

    model: str
    model_version: int
    release: int
    role: str
    predictions: list[Outcome]


class Scored(msgspec.Struct):
    """A request that was scored and not yet logged. `rows` is as received, `used` without what the plan takes for missing."""

    live: LiveModel
    items: list[PredictItem]
    rows: list[RawRow]
    used: list[RawRow]
    outputs: list[list[float]]
    many: bool


async def score(live: LiveModel, body: bytes, settings: ServingSettings, pool: ThreadPoolExecutor) -> Scored:
    """Decode and score a predict request.

    What takes long runs in `pool`, so that the worker keeps answering others.

    Raises
    ------
    Refusal
        Naming the field that does not fit, or 500 when the model gives no finite number.
    """
    items, rows, many = live.contract.decode(body, settings.max_rows)
    used = rows if live.mask is None else [live.mask(row) for row in rows]
    if live.constant is not None:
        outputs = [live.constant] * len(rows)
    elif live.is_slow or len(rows) > _OFF_LOOP_ROWS:
        outputs = await asyncio.get_running_loop().run_in_executor(pool, _score_rows, live, used, many)
    else:
        outputs = _score_rows(live, used, many)
    scored = Scored(live, items, rows, used, outputs, many)
    if not all(map(math.isfinite, [value for output in scored.outputs for value in output])):
        raise Refusal(500, "not_finite", f"{live.manifest.model} version {live.manifest.version} gave no finite number")
    return scored


def records_and_answer(scored: Scored, started: float) -> tuple[list[PredictionRecord], bytes]:
    """The log records of a scored request, and the body to send once they are written.

    Parameters
    ----------
    started
        `time.perf_counter()` when the request came in.
    """
    live = scored.live
    manifest, plan = live.manifest, live.plan
    served_at = datetime.now(UTC)
    latency_ms = (time.perf_counter() - started) * 1e3
    records, outcomes = [], []
    for item, row, used, output in zip(scored.items, scored.rows, scored.used, scored.outputs, strict=True):
        prediction_id = item.id or str(uuid_utils.uuid7())
        imputed, out_of_domain = live.domain.flags(used)
        records.append(
            PredictionRecord(
                id=prediction_id,
                model=manifest.model,
                version=manifest.version,
                bundle=live.bundle,
                release=plan.release,
                rollout=plan.rollout,
                role=live.role,
                event_time=item.event_time or served_at,
                served_at=served_at,
                entity=item.entity,
                features=row,
                imputed=imputed,
                out_of_domain=out_of_domain,
                output=tuple(output),
                latency_ms=latency_ms,
                probe=item.probe,
            )
        )
        outcomes.append(Outcome(prediction_id, *_outputs(live, output), imputed, out_of_domain))
    head = (manifest.model, manifest.version, plan.release, live.role)
    if scored.many:
        return records, _ENCODE(ManyAnswers(*head, outcomes))
    one = outcomes[0]
    return records, _ENCODE(
        OneAnswer(
            one.prediction_id, *head, one.prediction, one.probability, one.probabilities, one.imputed, one.out_of_domain
        )
    )


def failure_record(live: LiveModel, status: int, error: str, started: float) -> PredictionRecord:
    """What is logged of a request that was not answered with a prediction."""
    served_at = datetime.now(UTC)
    return PredictionRecord(
        id=str(uuid_utils.uuid7()),
        model=live.manifest.model,
        version=live.manifest.version,
        bundle=live.bundle,
        release=live.plan.release,
        rollout=live.plan.rollout,
        role=live.role,
        event_time=served_at,
        served_at=served_at,
        latency_ms=(time.perf_counter() - started) * 1e3,
        status=status,
        error=error[:500],
    )


_FEATURE = re.compile(r"feature '(.*?)'")


def _score_rows(live: LiveModel, rows: list[RawRow], many: bool) -> list[list[float]]:
    """Score; where the model itself refuses a value, such as one too large for its arithmetic, name the row and the feature."""
    try:
        outputs: list[list[float]] = live.scorer.score_rows(rows).tolist()
    except ScorerError as error:
        index = _first_refused(live.scorer, rows)
        feature = _FEATURE.search(str(error))
        field = f"features.{feature[1]}" if feature else "features"
        raise Refusal(422, "invalid_value", str(error), OneOrMany.path("rows", index, many, field)) from None
    return outputs


def _first_refused(scorer: Scorer, rows: list[RawRow]) -> int:
    """The position of the first row that a scorer refuses, one of which it does."""
    start, end = 0, len(rows)
    while end - start > 1:
        middle = (start + end) // 2
        try:
            scorer.score_rows(rows[start:middle])
        except ScorerError:
            end = middle
        else:
            start = middle
    return start


def _outputs(live: LiveModel, output: Sequence[float]) -> tuple[Any, Any, Any]:
    """Prediction, probability of the positive class, probabilities by class."""
    manifest = live.manifest
    if manifest.task == "binary":
        positive = output[1]
        return manifest.classes[positive >= manifest.threshold], positive, msgspec.UNSET
    if manifest.task == "multiclass":
        best = max(range(len(output)), key=output.__getitem__)
        probabilities = dict(zip(map(str, manifest.classes), output, strict=True))
        return manifest.classes[best], msgspec.UNSET, probabilities
    return output[0], msgspec.UNSET, msgspec.UNSET
