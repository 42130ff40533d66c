"""Who answers a predict request, and who is asked next where one does not. What is made of the answers: `predict.py`.

The champion is asked, or a challenger (canary) for its share of the entities. Where one does not answer, or its breaker is open,
the next is asked: the champion for a challenger; for the champion the standby, the last good version, and the constant.
"""

import logging
import re
import time
from collections.abc import Sequence

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
from mlops_assets.serving.state import LiveModel, Snapshot

logger = logging.getLogger("bentoml.mlops_assets.predict")

FAILURE = "mlops.failure"
DRAWN = "mlops.drawn"
_SAID_SECONDS = 10.0


class Part(msgspec.Struct):
    """Rows of one request that one version answered: which of the request's, and why not the one that should have."""

    block: Block
    places: Sequence[int]
    why: str | None


class Turn:
    """One predict request: the one snapshot that it sees, who answered it, and what is left to do after the reply.

    Where the version is `pinned`, no challenger answers. Of its only row may be known from before the `failure` of the version
    that was asked, and the id that was `drawn`, by which it was chosen who is asked.
    """

    __slots__ = ("_has_failed", "drawn", "failure", "live", "parts", "pinned", "records", "shadow")

    def __init__(
        self,
        live: LiveModel,
        pinned: bool = False,
        failure: VersionFailed | None = None,
        drawn: str | None = None,
    ) -> None:
        self.drawn = drawn
        self.live = live
        self.pinned = pinned
        self.failure = failure
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
            if len(self.parts) == 1:
                self.parts[0].block.live.counter.observe(200, seconds)
            else:
                self._count_shares(seconds)
            if self.shadow is not None:
                self.shadow.rest_s = seconds - self.scoring_s
                self.shadow.scoring_s = self.scoring_s
        elif not (self._has_failed and status == 500):
            self.live.counter.observe(status, seconds)

    def _count_shares(self, seconds: float) -> None:
        """Of a request that several answered, each is given its own scoring, and the rest."""
        rest_s = seconds - self.scoring_s
        for live in self.answerers:
            own_s = sum(part.block.seconds for part in self.parts if part.block.live is live)
            live.counter.observe(200, rest_s + own_s)

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


def in_service(snapshot: Snapshot, model: str) -> LiveModel:
    """The champion of a model. Raises `Refusal` as `loaded`, and 410 where the model is retired."""
    retired = snapshot.retired
    if retired and model in retired:
        raise Refusal(410, "retired", f"{model} is out of service: {retired[model].retired}")
    return loaded(snapshot, model)


def loaded(snapshot: Snapshot, model: str) -> LiveModel:
    """The champion of a model, retired or not. Raises `Refusal` 404 for no such model, 503 where none could be loaded yet."""
    live = snapshot.models.get(model)
    if live is not None:
        return live
    if model in snapshot.errors:
        message = f"no release of {model} could be loaded yet: {snapshot.errors[model]}"
        raise Refusal(503, "not_loaded", message, headers=((b"retry-after", b"1"),))
    if not snapshot.models:
        raise Refusal(503, "not_loaded", "no model is released yet", headers=((b"retry-after", b"5"),))
    raise Refusal(404, "unknown_model", f"there is no model {model[:100]!r}: choose from {sorted(snapshot.models)}")


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
    if turn.drawn is not None:
        items[0].id = turn.drawn
    challenger, everything = live.beside.challenger, range(len(rows))
    if turn.failure is not None:
        turn.parts = [await _ask_after(turn, turn.failure.live, scored, everything, means, turn.failure)]
        return scored
    if challenger is None or challenger.role == "shadow":
        turn.parts = [await _ask(turn, live, scored, everything, means)]
        return scored
    theirs = [place for place in everything if not turn.pinned and is_of_the_share(live, items[place])]
    if not theirs:
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


def is_of_the_share(champion: LiveModel, item: PredictItem) -> bool:
    """Whether a row is the challenger's. Probes ask for the champion; a row without an entity goes by its id, made here."""
    split = champion.beside.split
    if item.probe or split is None:
        return False
    if item.entity is not None:
        return split(item.entity)
    if item.id is None:
        item.id = str(uuid_utils.uuid7())
    return split(item.id)


async def _ask(turn: Turn, first: LiveModel, scored: Scored, places: Sequence[int], means: Means) -> Part:
    """What the first answers for these rows of the request, or who comes after it where it does not."""
    champion = turn.live
    # Where nobody could stand in, a champion is asked whatever its breaker says.
    last_hope = first is champion and not champion.beside.stand_ins
    if first.breaker.is_closed or last_hope or first.breaker.admits():
        try:
            return Part(await put_to(first, _rows_at(scored, places), means), places, None)
        except (VersionFailed, ScorerError) as error:
            return await _ask_after(turn, first, scored, places, means, error)
        except Refusal as refusal:
            if first is champion:
                raise
            # A challenger that cannot keep up has failed; the champion can.
            failure = VersionFailed(first, "slow", str(refusal))
            return await _ask_after(turn, first, scored, places, means, failure)
    return await _ask_others(turn, first, scored, places, means, f"{first.who} is not asked: {first.breaker.reason}")


async def _ask_after(
    turn: Turn,
    first: LiveModel,
    scored: Scored,
    places: Sequence[int],
    means: Means,
    error: VersionFailed | ScorerError,
) -> Part:
    """Who answers these rows after the first has failed or refused them."""
    champion = turn.live
    if isinstance(error, VersionFailed):
        turn.failed(error)
        if first is champion and not champion.beside.stand_ins:
            raise _hopeless(error) from None
        _say(error)
        return await _ask_others(turn, first, scored, places, means, str(error))
    if first is champion:
        raise _refusal(champion, scored, places, error) from None
    part = await _ask_others(turn, first, scored, places, means, f"{first.who}: {error}")
    if part.block.live.constant is None:
        # What another version answers was no fault of the caller's.
        turn.failed(VersionFailed(first, "error", str(error)))
    return part


async def _ask_others(
    turn: Turn,
    first: LiveModel,
    scored: Scored,
    places: Sequence[int],
    means: Means,
    reason: str,
) -> Part:
    champion = turn.live
    rows, why = _rows_at(scored, places), [reason]
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
        except Refusal as refusal:
            if is_last:
                raise
            why.append(f"{live.who}: {refusal}")
        except ScorerError as error:
            if live is champion or is_last:
                raise _refusal(live, scored, places, error) from None
            why.append(f"{live.who}: {error}")
    assert failure is not None, "the last one is asked, whatever its breaker says"
    raise _hopeless(failure) from None


def _rows_at(scored: Scored, places: Sequence[int]) -> list[RawRow]:
    return scored.rows if len(places) == len(scored.rows) else [scored.rows[place] for place in places]


_FEATURE = re.compile(r"feature '(.*?)'")


def _refusal(live: LiveModel, scored: Scored, places: Sequence[int], error: ScorerError) -> Refusal:
    """Where the model itself refuses a value, such as one too large for its arithmetic: names the row and the feature."""
    rows = _rows_at(scored, places)
    own = rows if live.arrange is None else list(map(live.arrange, rows))
    used = own if live.mask is None else list(map(live.mask, own))
    index = places[first_refused(live.scorer, used)]
    feature = _FEATURE.search(str(error))
    field = f"features.{feature[1]}" if feature else "features"
    return Refusal(422, "invalid_value", str(error), OneOrMany.path("rows", index, scored.many, field))


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
