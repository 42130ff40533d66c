"""What a sequential test of a release can say, with which errors, and what several of them say together.

The evidence itself is the business of `odds` and `means`.
"""

from collections.abc import Iterable
from math import log
from typing import Literal

import msgspec

Verdict = Literal["continue", "not worse", "better", "worse", "not better", "inconclusive"]
Aim = Literal["not worse", "better"]
Outcome = Literal["continue", "promote", "roll back", "inconclusive"]

PROMOTES: frozenset[Verdict] = frozenset({"not worse", "better"})
ROLLS_BACK: frozenset[Verdict] = frozenset({"worse", "not better"})


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which errors a test may make, and how long it may take.

    Two kinds of candidates are told apart, by the aim:

    ============= =========================== ==================================
    aim           a good candidate            a bad candidate
    ============= =========================== ==================================
    ``not worse`` no worse than the champion  worse by at least what matters
    ``better``    better by at least that     no better than the champion
    ============= =========================== ==================================

    - `alpha` bounds the probability that a *good* candidate is ever rolled back (verdict ``worse`` or ``not better``).
    - `beta` bounds the probability that a *bad* candidate is ever promoted (verdict ``not worse`` or ``better``).

    Nothing is promised about candidates in between. Both hold at any number of looks, wherever they are taken and however
    many rows each adds: the evidence is a non-negative supermartingale starting at 1, which ever reaches 1/alpha with probability
    at most alpha (Ville 1939). Wald's own bounds, (1 - beta)/alpha, are a little narrower and hold only approximately.

    Parameters
    ----------
    minimum
        Samples below which nothing is decided.
    maximum
        Samples at which a test that has decided nothing is ``inconclusive``; None looks for ever. What reaches a bound with its
        last batch is decided all the same.

    Raises
    ------
    ValueError
        When a probability is not between 0 and 1/2, or the maximum is not above the minimum.
    """

    alpha: float = 0.05
    beta: float = 0.05
    minimum: int = 0
    maximum: int | None = None
    aim: Aim = "not worse"

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            if not 0 < value < 0.5:
                raise ValueError(f"{name} is {value}: an error rate lies between 0 and 1/2")
        if self.minimum < 0 or (self.maximum is not None and self.maximum <= self.minimum):
            raise ValueError(
                f"a test of at least {self.minimum} and at most {self.maximum} samples cannot decide anything"
            )

    @property
    def against(self) -> float:
        """Where the evidence against the candidate decides, as a logarithm."""
        return -log(self.alpha)

    @property
    def in_favour(self) -> float:
        """Where the evidence in favour of the candidate decides, as a logarithm."""
        return -log(self.beta)


class Look(msgspec.Struct, frozen=True):
    """A test at one moment: a point of its picture, and a line of the ledger.

    `against` is the logarithm of an e-value against the hypothesis that the candidate is good, `in_favour` of one against the
    hypothesis that it is bad (None where a test never promotes); `verdict` is what had been said by then.
    """

    samples: int
    against: float
    in_favour: float | None
    verdict: Verdict


def judge(said: Verdict, samples: int, against: float, in_favour: float | None, limits: Limits) -> Verdict:
    """What is said after a look at which `said` had been said before.

    A roll back and ``inconclusive`` are final. A promotion holds until evidence against the candidate reaches its bound, which
    costs no error: alpha and beta each bound their crossing at *any* time. Where both bounds are reached at once, the candidate
    is surely worse and surely by less than what matters: the champion stays.
    """
    if said == "inconclusive" or said in ROLLS_BACK or samples < limits.minimum:
        return said
    if against >= limits.against:
        return "worse" if limits.aim == "not worse" else "not better"
    if in_favour is not None and in_favour >= limits.in_favour:
        return limits.aim
    over = limits.maximum is not None and samples >= limits.maximum
    return "inconclusive" if over and said == "continue" else said


def outcome(deciding: Iterable[Verdict], alarms: Iterable[Verdict] = ()) -> Outcome:
    """What several tests of one rollout come to: every deciding test must promote, and any test rolls back.

    A candidate that is bad in the eyes of one test is promoted with at most that test's beta, however many there are. A candidate
    that is good in all eyes is rolled back with at most the *sum* of the alphas, alarms included: declare each as its share.
    Without a deciding test nothing is promoted.
    """
    verdicts = tuple(deciding)
    if any(one in ROLLS_BACK for one in (*verdicts, *alarms)):
        return "roll back"
    if "inconclusive" in verdicts:
        return "inconclusive"
    return "promote" if verdicts and all(one in PROMOTES for one in verdicts) else "continue"
