"""Putting rows to one version: in its own order, without what is not trusted, off the event loop where it takes long.

Which version that is, and who is asked next when it fails, is told in `predict.py`.
"""

import math
import time

import msgspec

from mlops_assets.core.scoring.scorer import Scorer, ScorerError
from mlops_assets.serving.batcher import Batchers, score_now
from mlops_assets.serving.breaker import Trouble
from mlops_assets.serving.cache import AnswerCache
from mlops_assets.serving.contract import RawRow
from mlops_assets.serving.errors import Refusal
from mlops_assets.serving.state import LiveModel

_OFF_LOOP_ROWS = 256


class VersionFailed(Exception):
    """A version did not answer, and that is its own fault, whatever it was asked."""

    def __init__(self, live: LiveModel, trouble: Trouble, what: str) -> None:
        super().__init__(f"{live.who}: {what}")
        self.live = live
        self.trouble = trouble


class Means(msgspec.Struct, frozen=True):
    """What there is to score with, beside the event loop; `cache` is None where answers are not kept."""

    batchers: Batchers
    cache: AnswerCache | None = None


class Block(msgspec.Struct):
    """Rows that one version answered.

    Attributes
    ----------
    rows, used
        In the order of its contract: as received, and without what the plan takes for missing.
    seconds
        What scoring took, without the wait for it; of a batch, all of it. 0 of what was kept from before.
    """

    live: LiveModel
    rows: list[RawRow]
    used: list[RawRow]
    outputs: list[list[float]]
    seconds: float


def put_at_once(live: LiveModel, rows: list[RawRow]) -> Block:
    """`put_to` where there is nothing to wait for: a few rows for a version that is quick, and no cache to look into.

    Raises `ScorerError` and `VersionFailed`.
    """
    block = score_at_once(live, rows)
    live.breaker.answered(block.seconds)
    return block


def score_at_once(live: LiveModel, rows: list[RawRow]) -> Block:
    """`put_at_once` for rows that are not one request: the breaker is not told how long they took."""
    own, used = _as_its_own(live, rows)
    begun = time.perf_counter()
    try:
        outputs = [live.scorer.score_row(used[0])] if len(used) == 1 else score_now(live.scorer, used)
    except ScorerError:
        raise
    except Exception as error:
        raise _broke(live, error) from error
    seconds = time.perf_counter() - begun
    _require_finite(live, outputs)
    return Block(live, own, used, outputs, seconds)


async def put_to(live: LiveModel, rows: list[RawRow], means: Means) -> Block:
    """Score rows, given in the order of the champion's contract; the version's breaker is told that it answered.

    Raises
    ------
    ScorerError
        When the version refuses a value, which may be the caller's fault; whose it is, is for the caller of this to say.
    VersionFailed
        When it fails otherwise, or gives what is no finite number.
    Refusal
        503, when too many rows wait for it.
    """
    if live.constant is not None:
        own, used = _as_its_own(live, rows)
        return Block(live, own, used, [live.constant] * len(rows), 0.0)
    cache = means.cache if len(rows) == 1 else None
    if cache is None and live.is_quick and len(rows) <= _OFF_LOOP_ROWS:
        return put_at_once(live, rows)
    own, used = _as_its_own(live, rows)
    if cache is not None and (kept := cache.find(live, used[0])) is not None:
        return Block(live, own, used, [kept], 0.0)
    if live.is_quick and len(rows) <= _OFF_LOOP_ROWS:
        block = put_at_once(live, rows)
    else:
        try:
            scored = await means.batchers.score(live, used)
        except (ScorerError, Refusal):
            raise
        except Exception as error:
            raise _broke(live, error) from error
        _require_finite(live, scored.outputs)
        live.breaker.answered(scored.seconds)
        block = Block(live, own, used, scored.outputs, scored.seconds)
    if cache is not None:
        cache.keep(live, used[0], block.outputs[0])
    return block


def _as_its_own(live: LiveModel, rows: list[RawRow]) -> tuple[list[RawRow], list[RawRow]]:
    """Rows in the order of a version's own contract: as received, and without what its plan takes for missing."""
    own = rows if live.arrange is None else list(map(live.arrange, rows))
    return own, own if live.mask is None else list(map(live.mask, own))


def _broke(live: LiveModel, error: Exception) -> VersionFailed:
    """Whatever a version does wrong is its own failure: somebody else can answer."""
    return VersionFailed(live, "error", f"{type(error).__name__}: {error}")


def _require_finite(live: LiveModel, outputs: list[list[float]]) -> None:
    for output in outputs:
        for value in output:
            if not math.isfinite(value):
                raise VersionFailed(live, "not finite", "gave no finite number")


def first_refused(scorer: Scorer, rows: list[RawRow]) -> int:
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
