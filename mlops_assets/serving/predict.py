"""What is made of the answers to a predict request: the reply, the log's records, the counts. Who answers: `asking.py`."""

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import uuid_utils

from mlops_assets.core.records import PredictionRecord
from mlops_assets.serving.asking import Scored, Turn
from mlops_assets.serving.contract import PredictItem, RawRow
from mlops_assets.serving.errors import Refusal
from mlops_assets.serving.json_logs import about
from mlops_assets.serving.scoring import Block
from mlops_assets.serving.shadow import ShadowJob
from mlops_assets.serving.state import LiveModel

logger = logging.getLogger("bentoml.mlops_assets.predict")

_ENCODE = msgspec.json.Encoder().encode
_DEGRADED = frozenset({"standby", "fallback"})


class Outcome(msgspec.Struct, gc=False):
    """What was answered for one row; `probability` is that of the positive (last) class of two.

    Who answered it is said where the rows of one request were answered by several.
    """

    prediction_id: str
    prediction: float | int | str
    probability: float | msgspec.UnsetType
    probabilities: dict[str, float] | msgspec.UnsetType
    imputed: tuple[str, ...]
    out_of_domain: tuple[str, ...]
    model_version: int | msgspec.UnsetType = msgspec.UNSET
    role: str | msgspec.UnsetType = msgspec.UNSET


class OneAnswer(msgspec.Struct, gc=False):
    """The answer to a request with one row; `degraded` is said when neither champion nor challenger gave it."""

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
    degraded: bool | msgspec.UnsetType = msgspec.UNSET


class ManyAnswers(msgspec.Struct):
    """The answer to a request with a list of rows, in their order.

    Where several versions answered, version and role are the champion's, and each row says its own.
    """

    model: str
    model_version: int
    release: int
    role: str
    predictions: list[Outcome]
    degraded: bool | msgspec.UnsetType = msgspec.UNSET


def records_and_answer(scored: Scored, started: float) -> tuple[list[PredictionRecord], bytes]:
    """The log records of a scored request, and the body to send once they are written.

    Parameters
    ----------
    started
        `time.perf_counter()` when the request came in.
    """
    turn, items = scored.turn, scored.items
    champion, parts = turn.live, turn.parts
    if not scored.many:
        record, answer = record_and_answer(items[0], parts[0].block, started, parts[0].why)
        turn.shadow = shadow_of(champion, [record], scored.rows)
        return [record], answer
    served_at = datetime.now(UTC)
    latency_ms = (time.perf_counter() - started) * 1e3
    records: list[Any] = [None] * len(items)
    outcomes: list[Any] = [None] * len(items)
    degraded: bool | msgspec.UnsetType = msgspec.UNSET
    differ = len(parts) > 1 and parts[0].block.live is not parts[1].block.live
    for part in parts:
        block = part.block
        live = block.live
        if live.role in _DEGRADED:
            degraded = True
        who = (live.manifest.version, live.role) if differ else ()
        for place, row, used, output in zip(part.places, block.rows, block.used, block.outputs, strict=True):
            records[place], flags = _record(live, items[place], row, used, output, served_at, latency_ms, part.why)
            outcomes[place] = Outcome(records[place].id, *outputs_of(live, output), *flags, *who)
    first = champion if differ else parts[0].block.live
    head = (first.manifest.model, first.manifest.version, first.plan.release, first.role)
    turn.shadow = shadow_of(champion, records, scored.rows)
    return records, _ENCODE(ManyAnswers(*head, outcomes, degraded))


def record_and_answer(
    item: PredictItem, block: Block, started: float, why: str | None = None
) -> tuple[PredictionRecord, bytes]:
    """The log record of a request for one row, and the body to send once it is written.

    Parameters
    ----------
    block
        Of that row alone.
    started
        `time.perf_counter()` when the request came in.
    why
        It is not answered by the version that should have.
    """
    live, output = block.live, block.outputs[0]
    served_at = datetime.now(UTC)
    latency_ms = (time.perf_counter() - started) * 1e3
    record, flags = _record(live, item, block.rows[0], block.used[0], output, served_at, latency_ms, why)
    degraded = True if live.role in _DEGRADED else msgspec.UNSET
    manifest = live.manifest
    answer = OneAnswer(
        record.id, manifest.model, manifest.version, live.plan.release, live.role, *outputs_of(live, output), *flags, degraded
    )  # fmt: skip
    return record, _ENCODE(answer)


def shadow_of(champion: LiveModel, records: list[PredictionRecord], rows: list[RawRow]) -> ShadowJob | None:
    """What of a request's answers a challenger is to score too; rows are in the order of the champion's contract."""
    challenger, split = champion.beside.challenger, champion.beside.split
    if challenger is None or split is None or challenger.role != "shadow":
        return None
    places = [place for place, record in enumerate(records) if not record.probe and split(record.entity or record.id)]
    if not places:
        return None
    return ShadowJob(challenger, [records[place] for place in places], [rows[place] for place in places])


def count_predictions(turn: Turn, records: Sequence[PredictionRecord]) -> None:
    """Count rows that are answered and logged, and what of them was imputed or out of the known domain."""
    turn.records = records
    for part in turn.parts:
        count_block(part.block, [records[place] for place in part.places])


def count_block(block: Block, records: Sequence[PredictionRecord]) -> None:
    """`count_predictions` for the rows of one version, with their records."""
    metrics = block.live.metrics
    metrics.predictions.inc(len(records))
    metrics.confident(block.outputs)
    for record in records:
        if record.imputed or record.out_of_domain:
            metrics.flagged(record.imputed, record.out_of_domain)


def not_logged(live: LiveModel, error: Exception) -> Refusal:
    """What is said where an answer could not be written to the log."""
    logger.error("Answering 503: %s", error, extra=about(live))
    message = "the answer could not be logged and is therefore not given"
    return Refusal(503, "not_logged", message, headers=((b"retry-after", b"1"),))


def failure_record(
    live: LiveModel, status: int, error: str, started: float, record_id: str | None = None
) -> PredictionRecord:
    """What is logged of a request that was not answered with a prediction; its id is made where none is given."""
    served_at = datetime.now(UTC)
    return PredictionRecord(
        id=record_id or str(uuid_utils.uuid7()),
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


def _record(
    live: LiveModel,
    item: PredictItem,
    row: RawRow,
    used: RawRow,
    output: list[float],
    served_at: datetime,
    latency_ms: float,
    why: str | None,
) -> tuple[PredictionRecord, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The record of an answered row, and what of it was imputed and out of the domain."""
    flags = live.domain.flags(used)
    manifest, plan = live.manifest, live.plan
    record = PredictionRecord(
        id=item.id or str(uuid_utils.uuid7()),
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
        imputed=flags[0],
        out_of_domain=flags[1],
        output=tuple(output),
        latency_ms=latency_ms,
        error=why,
        probe=item.probe,
    )
    return record, flags


def outputs_of(live: LiveModel, output: Sequence[float]) -> tuple[Any, Any, Any]:
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
