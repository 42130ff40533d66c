"""One predict request, from its body to the answer: decode, choose who answers, score, log, reply. HTTP itself is in `app.py`.

Who answers: the champion, or a challenger (canary) for its share of the entities. Where one does not, or its breaker is open, the
next is asked: the champion for a challenger; for the champion the standby, the last good version, and the constant.
"""

import logging
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import uuid_utils

from mlops_assets.core.records import PredictionRecord
from mlops_assets.core.scoring.scorer import ScorerError
from mlops_assets.serving.contract import OneOrMany, PredictItem, RawRow
from mlops_assets.serving.errors import Refusal
from mlops_assets.serving.json_logs import about
from mlops_assets.serving.scoring import Block, Means, VersionFailed, first_refused, put_to
from mlops_assets.serving.settings import ServingSettings
from mlops_assets.serving.shadow import ShadowJob
from mlops_assets.serving.state import LiveModel

logger = logging.getLogger("bentoml.mlops_assets.predict")

_ENCODE = msgspec.json.Encoder().encode
_SAID_SECONDS = 10.0
_DEGRADED = frozenset({"standby", "fallback"})


class Outcome(msgspec.Struct):
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


class OneAnswer(msgspec.Struct):
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


class Part(msgspec.Struct):
    """Rows of one request that one version answered: which of the request's, and why not the one that should have."""

    block: Block
    places: Sequence[int]
    why: str | None


class Turn:
    """One predict request: the one snapshot that it sees, who answered it, and what is left to do after the reply."""

    __slots__ = ("_has_failed", "answered", "live", "parts", "records", "shadow")

    def __init__(self, live: LiveModel) -> None:
        self.live = live
        self.parts: list[Part] = []
        self.records: Sequence[PredictionRecord] = ()
        self.shadow: ShadowJob | None = None
        self._has_failed = False

    def failed(self, failure: VersionFailed) -> None:
        """Count the failure of a version that was asked."""
        self._has_failed = True
        failure.live.failed(failure.trouble)

    def ended(self, status: int, seconds: float) -> None:
        """Count the request for those who answered it. What a version failed has been counted for that one already."""
        if status == 200:
            for live in self.answerers:
                live.counter.observe(200, seconds)
            if self.shadow is not None:
                self.shadow.rest_s = seconds - self.scoring_s
                self.shadow.scoring_s = self.scoring_s
        elif not (self._has_failed and status == 500):
            self.live.counter.observe(status, seconds)

    @property
    def answerers(self) -> list[LiveModel]:
        """Who answered, in the order of their rows."""
        if len(self.parts) == 1:
            return [self.parts[0].block.live]
        found: list[LiveModel] = []
        for part in self.parts:
            if part.block.live not in found:
                found.append(part.block.live)
        return found

    @property
    def scoring_s(self) -> float:
        """What scoring took, of an answered request."""
        return sum(part.block.seconds for part in self.parts)

    @property
    def header(self) -> bytes:
        """The value of `x-mlops-release`: which release, version and role answered."""
        answerers = self.answerers
        versions = ",".join(str(live.manifest.version) for live in answerers)
        roles = ",".join(live.role for live in answerers)
        return f"{self.live.plan.release}; version={versions}; role={roles}".encode()


class Scored(msgspec.Struct):
    """A request that was scored and not yet logged."""

    turn: Turn
    items: list[PredictItem]
    rows: list[RawRow]
    many: bool


async def score(turn: Turn, body: bytes, settings: ServingSettings, means: Means) -> Scored:
    """Decode and score a predict request.

    What takes long runs in threads, so that the worker keeps answering others.

    Raises
    ------
    Refusal
        Naming the field that does not fit, 500 when nobody gives a finite number, or 503 when too many rows wait.
    """
    live = turn.live
    items, rows, many = live.contract.decode(body, settings.max_rows)
    scored = Scored(turn, items, rows, many)
    challenger, everything = live.beside.challenger, range(len(rows))
    if challenger is None or challenger.role == "shadow":
        turn.parts = [await _ask(turn, live, scored, everything, means)]
        return scored
    theirs = [place for place in everything if _is_of_the_share(live, items[place])]
    if not theirs or not (challenger.breaker.is_closed or challenger.breaker.admits()):
        turn.parts = [await _ask(turn, live, scored, everything, means)]
    elif len(theirs) == len(rows):
        turn.parts = [await _ask(turn, challenger, scored, everything, means)]
    else:
        others = sorted(set(everything) - set(theirs))
        turn.parts = [
            await _ask(turn, challenger, scored, theirs, means),
            await _ask(turn, live, scored, others, means),
        ]
    return scored


def records_and_answer(scored: Scored, started: float) -> tuple[list[PredictionRecord], bytes]:
    """The log records of a scored request, and the body to send once they are written.

    Parameters
    ----------
    started
        `time.perf_counter()` when the request came in.
    """
    turn, items = scored.turn, scored.items
    champion, parts = turn.live, turn.parts
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
            outcomes[place] = Outcome(records[place].id, *_outputs(live, output), *flags, *who)
    first = champion if differ else parts[0].block.live
    head = (first.manifest.model, first.manifest.version, first.plan.release, first.role)
    turn.shadow = _shadow_of(champion, scored, records)
    if scored.many:
        return records, _ENCODE(ManyAnswers(*head, outcomes, degraded))
    one = outcomes[0]
    return records, _ENCODE(
        OneAnswer(
            one.prediction_id, *head, one.prediction, one.probability, one.probabilities, one.imputed, one.out_of_domain, degraded
        )
    )  # fmt: skip


def count_predictions(turn: Turn, records: Sequence[PredictionRecord]) -> None:
    """Count rows that are answered and logged, and what of them was imputed or out of the known domain."""
    turn.records = records
    for part in turn.parts:
        metrics = part.block.live.metrics
        metrics.predictions.inc(len(part.places))
        metrics.confident(part.block.outputs)
        for place in part.places:
            record = records[place]
            if record.imputed or record.out_of_domain:
                metrics.flagged(record.imputed, record.out_of_domain)


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


async def _ask(turn: Turn, first: LiveModel, scored: Scored, places: Sequence[int], means: Means) -> Part:
    """What the first answers for these rows of the request, or who comes after it where it does not."""
    rows = scored.rows if len(places) == len(scored.rows) else [scored.rows[place] for place in places]
    champion = turn.live
    # A challenger's breaker has been asked; where nobody could stand in, a champion is asked whatever its breaker says.
    if first is not champion or first.breaker.is_closed or not first.beside.stand_ins or first.breaker.admits():
        try:
            return Part(await put_to(first, rows, means), places, None)
        except VersionFailed as failure:
            turn.failed(failure)
            if first is champion and not champion.beside.stand_ins:
                raise _hopeless(failure) from None
            _say(failure)
            why, refused = [str(failure)], None
        except ScorerError as error:
            if first is champion:
                raise _refusal(champion, rows, places, scored.many, error) from None
            why, refused = [f"{first.who}: {error}"], VersionFailed(first, "error", str(error))
    else:
        why, refused = [f"{first.who} is not asked: {first.breaker.reason}"], None
    part = await _ask_others(turn, first, scored, rows, places, means, why)
    if refused is not None and part.block.live.constant is None:
        # What another version answers was no fault of the caller's.
        turn.failed(refused)
    return part


async def _ask_others(
    turn: Turn,
    first: LiveModel,
    scored: Scored,
    rows: list[RawRow],
    places: Sequence[int],
    means: Means,
    why: list[str],
) -> Part:
    champion = turn.live
    failure: VersionFailed | None = None
    left = champion.beside.stand_ins if first is champion else (champion, *champion.beside.stand_ins)
    for position, live in enumerate(left):
        is_last = position == len(left) - 1
        if not (is_last or live.breaker.is_closed or live.breaker.admits()):
            why.append(f"{live.who} is not asked: {live.breaker.reason}")
            continue
        try:
            return Part(await put_to(live, rows, means), places, "; ".join(why)[:500])
        except VersionFailed as error:
            failure = error
            turn.failed(error)
            _say(error)
            why.append(str(error))
        except ScorerError as error:
            if live is champion or is_last:
                raise _refusal(live, rows, places, scored.many, error) from None
            why.append(f"{live.who}: {error}")
    assert failure is not None, "the last one is asked, whatever its breaker says"
    raise _hopeless(failure) from None


def _is_of_the_share(champion: LiveModel, item: PredictItem) -> bool:
    """Whether a row is the challenger's. Probes ask for the champion; a row without an entity goes by its id, made here."""
    split = champion.beside.split
    if item.probe or split is None:
        return False
    if item.entity is not None:
        return split(item.entity)
    if item.id is None:
        item.id = str(uuid_utils.uuid7())
    return split(item.id)


def _shadow_of(champion: LiveModel, scored: Scored, records: list[PredictionRecord]) -> ShadowJob | None:
    challenger, split = champion.beside.challenger, champion.beside.split
    if challenger is None or split is None or challenger.role != "shadow":
        return None
    places = [place for place, record in enumerate(records) if not record.probe and split(record.entity or record.id)]
    if not places:
        return None
    return ShadowJob(challenger, [records[place] for place in places], [scored.rows[place] for place in places])


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


_FEATURE = re.compile(r"feature '(.*?)'")


def _refusal(live: LiveModel, rows: list[RawRow], places: Sequence[int], many: bool, error: ScorerError) -> Refusal:
    """Where the model itself refuses a value, such as one too large for its arithmetic: names the row and the feature."""
    own = rows if live.arrange is None else list(map(live.arrange, rows))
    used = own if live.mask is None else list(map(live.mask, own))
    index = places[first_refused(live.scorer, used)]
    feature = _FEATURE.search(str(error))
    field = f"features.{feature[1]}" if feature else "features"
    return Refusal(422, "invalid_value", str(error), OneOrMany.path("rows", index, many, field))


def _hopeless(failure: VersionFailed) -> BaseException:
    """What ends a request that nobody could answer: the fault itself where there was one, for the worker's log to tell."""
    if failure.trouble == "not finite":
        manifest = failure.live.manifest
        return Refusal(500, "not_finite", f"{manifest.model} version {manifest.version} gave no finite number")
    return failure.__cause__ or failure


_said: dict[tuple[str, int], float] = {}


def _say(failure: VersionFailed) -> None:
    """Log a failure that callers do not notice, and not each of thousands."""
    manifest, now = failure.live.manifest, time.monotonic()
    key = (manifest.model, manifest.version)
    if now - _said.get(key, -_SAID_SECONDS) >= _SAID_SECONDS:
        _said[key] = now
        message = "%s: another answers in place of %s"
        logger.warning(message, manifest.model, failure, exc_info=failure, extra=about(failure.live))


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
