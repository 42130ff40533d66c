"""What share of the requests felt what was broken: by what callers were told, and by the log; the two must agree.

Which drills that is found out for, and how much may be touched, stands in the catalogue.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

import msgspec
from scipy import stats

from mlops_assets.core.records import SHADOW, PredictionRecord
from mlops_assets.drills.caller import Acknowledged, Asked

CHANCE = 1e-4  # of finding fault with a canary whose entities were drawn as declared
_EXAMPLES = 5


class Touched(msgspec.Struct, frozen=True):
    """How many requests were answered by a bad version, refused, failed or not answered.

    Attributes
    ----------
    requests
        Rows that were asked for.
    touched, logged
        Those of them that felt it: by what their callers were told, and by what the log says of the same ids.
    at_most
        The share that may be; None where nothing is declared of it.
    contradictions
        Requests of which callers and log do not say the same, some of them in words.
    """

    requests: int
    touched: int
    logged: int
    at_most: float | None = None
    contradictions: int = 0
    examples: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        return self.touched / self.requests if self.requests else 0.0

    @property
    def told(self) -> str:
        """In a line."""
        limit = "" if self.at_most is None else f"; at most {100 * self.at_most:.1f} % may be"
        return f"touched: {100 * self.share:.1f} % of {self.requests:,} requests{limit}"

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with it, in words; nothing where as few were touched as may be, and both sources say so."""
        found = list(self.examples)
        if self.contradictions:
            found.append(f"callers say that {self.touched} requests were touched, and the log {self.logged}")
        if self.at_most is not None and self.share > self.at_most:
            found.append(self.told)
        return tuple(found)


def touched(
    asked: Iterable[Asked],
    acknowledged: Iterable[Acknowledged],
    logged: Iterable[PredictionRecord],
    bad_versions: Collection[int],
    between: tuple[datetime, datetime],
    share: float | None,
) -> Touched:
    """Count the requests that ended between two moments, and whom it touched.

    Parameters
    ----------
    logged
        All that the log has of the model.
    between
        From when to when it was known what became of a request, by the wall clock.
    share
        Of the entities that a bad version may answer; None where none is declared.
    """
    begin, end = between
    sent = [one for one in asked if begin <= one.at <= end]
    given = {one.id: one.version for one in acknowledged}
    known = defaultdict(list)
    for record in logged:
        if record.role != SHADOW and not record.probe:
            known[record.id].append(record)
    by_callers = {one.id for one in sent if one.outcome != "answered" or given[one.id] in bad_versions}
    by_log = {one.id for one in sent if _is_touched(one, known[one.id], bad_versions)}
    apart = sorted(by_callers ^ by_log)
    examples = [
        f"{one}: touched by what {'its caller' if one in by_callers else 'the log'} says alone" for one in apart
    ]
    at_most = None if share is None else most_by_chance(share, [one.entity for one in sent])
    return Touched(len(sent), len(by_callers), len(by_log), at_most, len(apart), tuple(examples[:_EXAMPLES]))


def most_by_chance(share: float, entities: Sequence[str], chance: float = CHANCE) -> float:
    """The share of requests that a share of the entities comes to at most, but for a chance.

    An entity is drawn with all of its requests, which makes them count for fewer: for (Σw)²/Σw² of them, where w are the requests
    of each (the design effect of unequal weights, Kish 1965). Of so many the binomial quantile is taken.

    Parameters
    ----------
    entities
        Whom each request was for.
    """
    weights = Counter(entities).values()
    if not weights:
        return share
    count = int(sum(weights) ** 2 / sum(weight**2 for weight in weights))
    return float(stats.binom.ppf(1 - chance, count, share)) / count


def _is_touched(one: Asked, records: Sequence[PredictionRecord], bad_versions: Collection[int]) -> bool:
    """What the log says of one request. A broken connection may have left any record in it, or none."""
    if one.outcome == "unanswered":
        return True
    answers = [record for record in records if record.status == 200]
    return not answers or any(record.version in bad_versions for record in answers)
