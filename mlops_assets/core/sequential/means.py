"""Tests on means: of paired losses (shadow), and of business values on different requests (canary).

Errors, which only need counting, are the business of `odds`.
"""

from collections.abc import Callable, Sequence
from functools import cache
from math import ceil, isfinite, log, nan
from typing import NamedTuple, Self, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlops_assets.core.sequential.verdicts import Limits, Look, Verdict, judge

Floats = NDArray[np.float64]

_LARGEST_BET = 0.75
_STEP_OF_BETS = 1.5


class Differences(msgspec.Struct, frozen=True, tag="differences", forbid_unknown_fields=True):
    """Sums of the candidate's loss less the champion's on the same rows, cut off at ± `clip`. Batches merge by `+`."""

    samples: int
    total: float
    squares: float
    clip: float

    @classmethod
    def of(cls, candidate: Floats, champion: Floats, clip: float) -> Self:
        """Losses of both on the same rows, each of shape (n,), lower is better.

        Raises
        ------
        ValueError
            When a loss is not finite.
        """
        clipped = np.clip(_finite(candidate - champion, "losses"), -clip, clip)
        return cls(len(clipped), float(clipped.sum()), float((clipped**2).sum()), clip)

    def __add__(self, other: "Differences") -> "Differences":
        if self.clip != other.clip:
            raise ValueError(f"differences cut off at {self.clip} and at {other.clip} cannot be added")
        return Differences(
            self.samples + other.samples, self.total + other.total, self.squares + other.squares, self.clip
        )


class ArmSums(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Number, sum and sum of squares of one side's values."""

    samples: int
    total: float
    squares: float

    @classmethod
    def of(cls, values: Floats, low: float, high: float) -> Self:
        """Values of entities, shape (n,), cut off at the declared bounds; one value an entity.

        Raises
        ------
        ValueError
            When a value is not finite.
        """
        clipped = np.clip(_finite(values, "values"), low, high)
        return cls(len(clipped), float(clipped.sum()), float((clipped**2).sum()))

    def squares_around(self, centre: float) -> float:
        return max(self.squares - 2 * centre * self.total + self.samples * centre**2, 0.0)


class Values(msgspec.Struct, frozen=True, tag="values", forbid_unknown_fields=True):
    """Values of both sides since the last look, and the candidate's share while these entities were answered."""

    candidate: ArmSums
    champion: ArmSums
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"a canary with the share {self.share} cannot be compared: it must lie between 0 and 1")


class Harm(msgspec.Struct, frozen=True):
    """Sums of z, an unbiased measure of how much worse the candidate is, |z| <= reach."""

    samples: int
    total: float
    squares: float
    reach: float

    def __add__(self, other: "Harm") -> "Harm":
        return Harm(self.samples + other.samples, self.total + other.total, self.squares + other.squares, self.reach)


class Interval(NamedTuple):
    """A mean and the ends of its confidence sequence."""

    mean: float
    low: float
    high: float


class PairedMeans(msgspec.Struct, frozen=True, tag="paired_means", forbid_unknown_fields=True):
    """Is the candidate's mean loss higher on the same rows? Losses of any distribution, differences cut off at ± `clip`.

    The evidence against "the mean of z is at most m" is what a gambler has who stakes the share λ of his wealth
    on every z (Waudby-Smith & Ramdas 2024, section 4), mixed over a fixed grid of λ, and bounded from below by
    exp(λξ - ξ²(-ln(1 - λ) - λ)) ≤ 1 + λξ for ξ ≥ -1
    (Fan, Grama & Liu 2015; the empirical-Bernstein bound of Howard et al. 2021, theorem 4). So three sums are enough,
    no stake depends on what came before, and any order and any batches come to the same. `alpha` and `beta` are exact bounds at any
    sample, whatever the distribution within the bounds, as long as the mean given all that came before stays on its side.

    Parameters
    ----------
    margin
        The smallest mean difference that matters, in the loss's unit, > 0.
    clip
        Where differences are cut off, in the loss's unit, above the margin. What is compared is the mean of the clipped
        differences; take a few standard deviations, since a wide clip makes early evidence weak.
    """

    limits: Limits
    margin: float
    clip: float
    seen: tuple[Harm, ...] = ()
    verdict: Verdict = "continue"

    def __post_init__(self) -> None:
        if not 0 < self.margin < self.clip < float("inf"):
            raise ValueError(
                f"the margin, {self.margin}, must lie between 0 and where differences are cut off, {self.clip}"
            )

    @property
    def samples(self) -> int:
        return sum(one.samples for one in self.seen)

    @property
    def look(self) -> Look:
        return _look(self.seen, self.margin, self.margin / self.clip, self.limits, self.verdict)

    @property
    def interval(self) -> Interval:
        """Mean difference, worse is positive, with a confidence sequence: at all looks together right with 1 - alpha - beta."""
        return confidence_sequence(self.seen, self.margin / self.clip, self.limits)

    def after(self, batch: Differences) -> "PairedMeans":
        """With what came in since the last look.

        Raises
        ------
        ValueError
            When the differences were cut off elsewhere.
        """
        if batch.clip != self.clip:
            raise ValueError(
                f"differences cut off at {batch.clip} do not go with a test of those cut off at {self.clip}"
            )
        seen = _merged(self.seen, Harm(batch.samples, batch.total, batch.squares, self.clip))
        return _judged(msgspec.structs.replace(self, seen=seen))


class ValueMeans(msgspec.Struct, frozen=True, tag="value_means", forbid_unknown_fields=True):
    """Is the mean of a business value worse where the candidate answers? On different requests, values within declared bounds.

    With the candidate's share r and any c known beforehand, z = ±(y - c)/r for its entities and ∓(y - c)/(1 - r) for the
    champion's has the difference of the means as its mean at every moment, whatever the level of the hour (Horvitz & Thompson
    1952; the confidence sequence for it is that of Howard et al. 2021, section 4.2). Levels that swing, and shares that change
    between stages, bias nothing. The evidence is that of `PairedMeans`; c is the mean of the batches before, so that the sampling
    error is about that of the difference of two means.

    Parameters
    ----------
    margin
        The smallest difference of means that matters, in the value's unit, > 0.
    low, high
        Bounds of a value, in its unit; values beyond are cut off. The unit does not matter: all is relative to their distance.
    centre
        The usual value, where it is known: the c of the first batch. By default the middle of the bounds.
    known, total
        Number and sum of values in all batches so far.
    """

    limits: Limits
    margin: float
    low: float = 0.0
    high: float = 1.0
    centre: float | None = None
    higher_is_better: bool = True
    seen: tuple[Harm, ...] = ()
    known: int = 0
    total: float = 0.0
    verdict: Verdict = "continue"

    def __post_init__(self) -> None:
        if not (isfinite(self.high - self.low) and 0 < self.margin < self.high - self.low):
            raise ValueError(
                f"the margin, {self.margin}, must lie between 0 and the width of {self.low} to {self.high}"
            )
        if self.centre is not None and not self.low <= self.centre <= self.high:
            raise ValueError(f"the usual value, {self.centre}, lies outside of {self.low} to {self.high}")

    @property
    def samples(self) -> int:
        return self.known

    @property
    def look(self) -> Look:
        return _look(self.seen, self.margin, self.margin / (self.high - self.low), self.limits, self.verdict)

    @property
    def interval(self) -> Interval:
        """How much worse the candidate's mean is, in the value's unit, at all looks together right with 1 - alpha - beta."""
        return confidence_sequence(self.seen, self.margin / (self.high - self.low), self.limits)

    def after(self, batch: Values) -> "ValueMeans":
        """With what came in since the last look."""
        middle = (self.low + self.high) / 2 if self.centre is None else self.centre
        centre = self.total / self.known if self.known else middle
        mine, theirs, share = batch.candidate, batch.champion, batch.share
        samples = mine.samples + theirs.samples
        gain = (mine.total - mine.samples * centre) / share - (theirs.total - theirs.samples * centre) / (1 - share)
        harm = Harm(
            samples,
            -gain if self.higher_is_better else gain,
            mine.squares_around(centre) / share**2 + theirs.squares_around(centre) / (1 - share) ** 2,
            (self.high - self.low) / min(share, 1 - share),
        )
        return _judged(
            msgspec.structs.replace(
                self,
                seen=_merged(self.seen, harm),
                known=self.known + samples,
                total=self.total + mine.total + theirs.total,
            )
        )


_Test = TypeVar("_Test", PairedMeans, ValueMeans)


def log_evidence_above(
    limit: Floats, samples: Floats, total: Floats, squares: Floats, reach: float | Floats, bets: Floats
) -> Floats:
    """Logarithms of what each stake on "the mean of z is above the limit" has become, shape (n, bets); z >= -reach.

    `samples`, `total`, `squares`: number of z, their sum and their sum of squares. They, `limit` and
    `reach` are broadcast to shape (n,).
    """
    unit = reach + limit
    won = (total - samples * limit) / unit
    spread = (squares - 2 * limit * total + samples * limit**2) / unit**2
    exponents: Floats = won[:, None] * bets - spread[:, None] * (-np.log1p(-bets) - bets)
    return exponents


@cache
def bets_of(smallest: float) -> Floats:
    """The grid of stakes: in equal ratios from `smallest`, the margin over the width, up to three quarters.

    The best stake for a mean at the margin is margin x reach / variance, which is never below the margin over the reach.
    """
    smallest = min(smallest, _LARGEST_BET / _STEP_OF_BETS)
    count = 1 + ceil(log(_LARGEST_BET / smallest) / log(_STEP_OF_BETS))
    bets = np.geomspace(smallest, _LARGEST_BET, count)
    bets.setflags(write=False)
    return bets


def confidence_sequence(seen: Sequence[Harm], smallest_bet: float, limits: Limits) -> Interval:
    """The limits that the evidence does not rule out: from below with alpha, from above with beta."""
    if not sum(one.samples for one in seen):
        return Interval(nan, nan, nan)
    # each z counts as it does in the evidence, relative to its reach
    mean = sum(one.total / one.reach for one in seen) / sum(one.samples / one.reach for one in seen)
    reach = min(one.reach for one in seen)

    def ruled_out(sign: int, bound: float, farthest: float) -> float:
        sums = _mirrored(seen, sign)
        return _nearest(lambda distances: _against(sign * mean - distances, sums, smallest_bet) >= bound, farthest)

    low = mean - ruled_out(1, limits.against, reach + mean)
    return Interval(mean, low, mean + ruled_out(-1, limits.in_favour, reach - mean))


def _nearest(ruled_out: Callable[[Floats], NDArray[np.bool_]], farthest: float) -> float:
    """The nearest distance at which a mean is ruled out, to .1 % and rather too far; `farthest` if there is none.

    What rules out a mean rules out all beyond it, so that the nearest counts even where the evidence fades farther out.
    """
    if farthest <= 0:
        return 0.0
    distances = np.geomspace(1e-6, 1 - 1e-9, 150) * farthest
    found = ruled_out(distances)
    if not found.any():
        return farthest
    first = int(found.argmax())
    finer = np.linspace(distances[max(first - 1, 0)], distances[first], 100)
    return float(finer[ruled_out(finer).argmax()])


def _look(seen: Sequence[Harm], margin: float, smallest_bet: float, limits: Limits, verdict: Verdict) -> Look:
    good, bad = (0.0, margin) if limits.aim == "not worse" else (-margin, 0.0)
    samples = sum(one.samples for one in seen)
    against = _against(np.array([good]), seen, smallest_bet)[0]
    in_favour = _against(np.array([-bad]), _mirrored(seen, -1), smallest_bet)[0]
    return Look(samples, float(against), float(in_favour), verdict)


def _against(limits: Floats, seen: Sequence[Harm], smallest_bet: float) -> Floats:
    """Logarithms of the e-values against "the mean of z is at most the limit", of each limit, shape (n,)."""
    bets = bets_of(smallest_bet)
    exponents = np.zeros((len(limits), len(bets)))
    for one in seen:
        sums = np.array([one.samples]), np.array([one.total]), np.array([one.squares])
        exponents += log_evidence_above(limits, *sums, one.reach, bets)
    mixed: Floats = np.logaddexp.reduce(exponents, axis=1) - log(len(bets))
    return mixed


def _mirrored(seen: Sequence[Harm], sign: int) -> Sequence[Harm]:
    return seen if sign > 0 else [msgspec.structs.replace(one, total=-one.total) for one in seen]


def _merged(seen: tuple[Harm, ...], batch: Harm) -> tuple[Harm, ...]:
    by_reach = {one.reach: one for one in seen}
    by_reach[batch.reach] = by_reach[batch.reach] + batch if batch.reach in by_reach else batch
    return tuple(by_reach[reach] for reach in sorted(by_reach))


def _judged(test: _Test) -> _Test:
    look = test.look
    said = judge(test.verdict, look.samples, look.against, look.in_favour, test.limits)
    return msgspec.structs.replace(test, verdict=said)


def _finite(values: Floats, what: str) -> Floats:
    if not np.isfinite(values).all():
        raise ValueError(
            f"{what} that are not finite cannot be compared; leave those rows out, and count them as errors"
        )
    return values
