"""Tests on whose errors they are: of discordant pairs (shadow) and of errors by share (canary).

Losses and business values that are compared by their means are the business of `means`.
"""

from collections.abc import Iterable
from functools import cache
from math import log
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mlops_assets.core.sequential.verdicts import Limits, Look, Verdict, judge

Floats = NDArray[np.float64]

_NODES = 512


class Errors(msgspec.Struct, frozen=True, tag="errors", forbid_unknown_fields=True):
    """Errors of one batch, or of all that was seen at one share. Batches of the same share merge by `+`.

    Parameters
    ----------
    samples
        Pairs of answers (shadow), or entities of both sides (canary), whose outcome is known, errors or not.
    candidate, champion
        How many of these only the candidate, or only the champion, got wrong.
    share
        Probability with which an error would be the candidate's if both were equally good: 1/2 for pairs; for a canary the share
        of entities it answered *while these samples were answered*. The share that came true in a batch may stand for the declared
        one, where labels do not come in evenly: given how many entities each side has, whose errors they are is drawn without
        replacement, which the tests overestimate (Hoeffding 1963, theorem 4).

    Raises
    ------
    ValueError
        When counts are negative or do not fit, or the share leaves one side without entities.
    """

    samples: int
    candidate: int
    champion: int
    share: float = 0.5

    def __post_init__(self) -> None:
        if min(self.candidate, self.champion) < 0 or self.candidate + self.champion > self.samples:
            raise ValueError(f"{self.candidate} and {self.champion} errors do not go with {self.samples} samples")
        if not 0 < self.share < 1:
            raise ValueError(f"a canary with the share {self.share} cannot be compared: it must lie between 0 and 1")

    @classmethod
    def of_pairs(cls, candidate_wrong: NDArray[np.bool_], champion_wrong: NDArray[np.bool_]) -> Self:
        """Outcomes of both on the same rows, each of shape (n,)."""
        return cls(
            len(candidate_wrong),
            int((candidate_wrong & ~champion_wrong).sum()),
            int((champion_wrong & ~candidate_wrong).sum()),
        )

    @classmethod
    def of_losses(cls, candidate: Floats, champion: Floats) -> Self:
        """Losses of both on the same rows, each of shape (n,): the larger one errs (sign test; equal losses say nothing).

        This asks who is worse *more often*, not by how much: see `means.PairedMeans`.

        Raises
        ------
        ValueError
            When a loss is not finite.
        """
        if not (np.isfinite(candidate).all() and np.isfinite(champion).all()):
            raise ValueError(
                "losses that are not finite cannot be compared; leave those rows out, and count them as errors"
            )
        return cls(len(candidate), int((candidate > champion).sum()), int((champion > candidate).sum()))

    @classmethod
    def of_entities(cls, by_candidate: NDArray[np.bool_], wrong: NDArray[np.bool_], share: float) -> Self:
        """Who answered each entity, and whether wrongly, each of shape (n,).

        One outcome an entity: repeated ones are not independent.
        """
        return cls(len(wrong), int((wrong & by_candidate).sum()), int((wrong & ~by_candidate).sum()), share)

    def __add__(self, other: "Errors") -> "Errors":
        if self.share != other.share:
            raise ValueError(f"errors at shares {self.share} and {other.share} cannot be added: they weigh differently")
        return Errors(
            self.samples + other.samples, self.candidate + other.candidate, self.champion + other.champion, self.share
        )


class Sprt(msgspec.Struct, frozen=True, tag="sprt", forbid_unknown_fields=True):
    """Wald's (1945) sequential probability ratio test on whose errors they are.

    On the same rows only discordant pairs count: if both are equally good, either errs alone with probability 1/2, and
    with ψ/(1 + ψ) if the candidate's odds are ψ times as high. On different requests an error is the
    candidate's with probability r, its share, whatever the error rate is and however it swings, and with
    rψ/(rψ + 1 - r) if its error rate is ψ times the champion's. The first is the second with r = 1/2, so
    that one test does both. Service errors and "slower than the champion's p95" are errors like any other.

    What `alpha` and `beta` bound is said by `Limits`; both hold for every candidate beyond the two hypotheses too, and where its
    disadvantage moves but stays on its side. Only counts are kept, so that any order and any batches of them come to the same.

    Parameters
    ----------
    ratio
        ψ > 1: the smallest odds ratio (pairs) or ratio of error rates (canary) that matters.
    seen
        Errors by share, in rising order of shares.
    """

    limits: Limits
    ratio: float = 1.5
    seen: tuple[Errors, ...] = ()
    verdict: Verdict = "continue"

    def __post_init__(self) -> None:
        _check(self.ratio)

    @property
    def samples(self) -> int:
        return sum(one.samples for one in self.seen)

    @property
    def look(self) -> Look:
        against = 0.0
        for one in self.seen:
            steps = log_likelihood_steps(self.ratio, one.share, self.limits)
            against += one.candidate * steps[0] + one.champion * steps[1]
        return Look(self.samples, against, -against, self.verdict)

    def after(self, batch: Errors) -> "Sprt":
        """With what came in since the last look."""
        new = msgspec.structs.replace(self, seen=merged(self.seen, batch))
        look = new.look
        said = judge(self.verdict, look.samples, look.against, look.in_favour, self.limits)
        return msgspec.structs.replace(new, verdict=said)


def log_likelihood_steps(ratio: float, share: float, limits: Limits) -> tuple[float, float]:
    """What an error of the candidate, and one of the champion, add to the log-likelihood of a bad candidate over a good one."""
    worse = ratio if limits.aim == "not worse" else 1.0
    good, bad = _attributed(worse / ratio, share), _attributed(worse, share)
    return log(bad / good), log((1 - bad) / (1 - good))


class OddsAlarm(msgspec.Struct, frozen=True, tag="odds_alarm", forbid_unknown_fields=True):
    """An alarm that may look for ever: has the candidate, or what has been promoted, more errors than its share?

    The e-value is the likelihood ratio against "no worse", mixed over all ratios above 1: on pairs the one-sided beta-binomial
    mixture (Robbins 1970; Howard et al. 2021). It says ``worse`` at 1/alpha or more, which a candidate that is no worse ever
    reaches with probability at most alpha. It never promotes and has no maximum; `beta` is not used.

    Parameters
    ----------
    ratio
        Where the mixture lies: its mean square in θ - 1/2 is that of this ratio. Others are found too, a little
        later.
    """

    limits: Limits
    ratio: float = 1.5
    seen: tuple[Errors, ...] = ()
    verdict: Verdict = "continue"

    def __post_init__(self) -> None:
        _check(self.ratio)
        if self.limits.aim != "not worse" or self.limits.maximum is not None:
            raise ValueError(
                "an alarm asks whether the candidate is worse, for ever: leave its aim and its maximum out"
            )

    @property
    def samples(self) -> int:
        return sum(one.samples for one in self.seen)

    @property
    def look(self) -> Look:
        counts = [(one.share, np.array([one.candidate]), np.array([one.champion])) for one in self.seen]
        against = float(log_mixture(self.ratio, counts)[0]) if counts else 0.0
        return Look(self.samples, against, None, self.verdict)

    def after(self, batch: Errors) -> "OddsAlarm":
        """With what came in since the last look."""
        new = msgspec.structs.replace(self, seen=merged(self.seen, batch))
        look = new.look
        return msgspec.structs.replace(new, verdict=judge(self.verdict, look.samples, look.against, None, self.limits))


def log_mixture(ratio: float, counts: Iterable[tuple[float, NDArray[np.int64], NDArray[np.int64]]]) -> Floats:
    """Logarithm of the e-value against "no worse", shape (n,).

    The mixture is one over `_NODES` ratios, the Gauss-Legendre nodes of the truncated beta prior. As a finite mixture it is an
    e-value exactly, however well it approximates the integral; unlike the integral it also mixes over samples of several shares.

    Parameters
    ----------
    counts
        Share, errors of the candidate and errors of the champion, each of shape (n,), one triple for each share.
    """
    ratios, log_weights = _prior(ratio)
    exponents: Floats = log_weights[None, :]
    for share, candidate, champion in counts:
        scale = np.log(share * ratios + 1 - share)
        exponents = exponents + candidate[:, None] * (np.log(ratios) - scale) - champion[:, None] * scale
    mixed: Floats = np.logaddexp.reduce(exponents, axis=1)
    return mixed


def merged(seen: tuple[Errors, ...], batch: Errors) -> tuple[Errors, ...]:
    """What was seen, with a batch more; one entry for each share, in rising order."""
    by_share = {one.share: one for one in seen}
    by_share[batch.share] = by_share[batch.share] + batch if batch.share in by_share else batch
    return tuple(by_share[share] for share in sorted(by_share))


def _attributed(ratio: float, share: float) -> float:
    """Probability that an error is the candidate's, if its error rate is `ratio` times the champion's."""
    return share * ratio / (share * ratio + 1 - share)


@cache
def _prior(ratio: float) -> tuple[Floats, Floats]:
    """Ratios above 1 and the logarithms of their weights: a symmetric beta prior of θ = ratio/(1 + ratio), cut off below 1/2.

    Beta(k, k) has the variance 1/(4(2k + 1)), which is set to the square of θ - 1/2.
    """
    distance = _attributed(ratio, 0.5) - 0.5
    strength = max((1 / (4 * distance**2) - 1) / 2, 1.0)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    thetas = 0.75 + 0.25 * nodes
    log_weights = np.log(weights) + stats.beta.logpdf(thetas, strength, strength)
    return thetas / (1 - thetas), log_weights - np.logaddexp.reduce(log_weights)


def _check(ratio: float) -> None:
    if not 1 < ratio < float("inf"):
        raise ValueError(f"the ratio that matters is {ratio}: how many times the champion's errors, and so above 1")
