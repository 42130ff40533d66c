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
    own = rows if live.arrange is None else list(map(live.arrange, rows))
    used = own if live.mask is None else list(map(live.mask, own))
    if live.constant is not None:
        return Block(live, own, used, [live.constant] * len(rows), 0.0)
    cache = means.cache if len(rows) == 1 else None
    if cache is not None and (kept := cache.find(live, used[0])) is not None:
        return Block(live, own, used, [kept], 0.0)
    try:
        if live.is_slow or len(rows) > _OFF_LOOP_ROWS:
            scored = await means.batchers.score(live, used)
            outputs, seconds = scored.outputs, scored.seconds
        else:
            begun = time.perf_counter()
            outputs = score_now(live.scorer, used)
            seconds = time.perf_counter() - begun
    except (ScorerError, Refusal):
        raise
    except Exception as error:
        # Whatever a version does wrong is its own failure: somebody else can answer.
        raise VersionFailed(live, "error", f"{type(error).__name__}: {error}") from error
    if not all(map(math.isfinite, [value for output in outputs for value in output])):
        raise VersionFailed(live, "not finite", "gave no finite number")
    live.breaker.answered(seconds)
    if cache is not None:
        cache.keep(live, used[0], outputs[0])
    return Block(live, own, used, outputs, seconds)


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
