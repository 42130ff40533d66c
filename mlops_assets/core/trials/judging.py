"""Trials of a release: which tests a strategy asks for, and what follows from the evidence at one look.

Pure. Gathering the evidence is the business of `evidence.py` in `operations/rollouts`, and doing it that of `advance.py`.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from mlops_assets.core.sequential import (
    ROLLS_BACK,
    Batch,
    Limits,
    Look,
    OddsAlarm,
    PairedMeans,
    Sprt,
    Test,
    ValueMeans,
    Values,
    Verdict,
    advance,
    outcome,
)
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.spec.release import BusinessMetric

QUALITY, LOSS, ERRORS, LATENCY = "quality", "loss", "errors", "latency"
FEWEST_FOR_P95 = 200  # answers of the champion from which its 95th percentile is taken
GIVEN_UP = 3  # times that a worker's breaker has opened on a challenger before it is dismissed

Mode = Literal["shadow", "canary", "bake"]
Step = Literal[
    "keep looking", "canary", "widen", "promote", "dismiss", "inconclusive", "roll back", "settle", "not comparable"
]
ENDINGS = frozenset({"dismiss", "inconclusive", "roll back", "settle", "not comparable", "superseded"})

_CLIP = 5.0  # champion's losses at which a difference of losses is cut off
_FAR_OFF = 2.0  # champion's losses above which an answer of a regression counts as wrong
_UNJUDGED = 2**53  # samples: more than will ever come


class NamedTest(msgspec.Struct, frozen=True):
    """A test under its name. One that `decides` must speak for the challenger before it goes on; any may end the trial."""

    name: str
    test: Test
    decides: bool


class Stage(msgspec.Struct, frozen=True):
    """One stage of a trial.

    Attributes
    ----------
    shares
        Of the entities, one after the other.
    min_samples
        Labelled outcomes of the challenger at a share before the next step; in the bake, pairs before it is over.
    patience_s
        Seconds of event time at one share after which it is inconclusive; in the bake, after which it is over.
    """

    mode: Mode
    shares: tuple[float, ...]
    min_samples: int
    patience_s: float
    tests: tuple[NamedTest, ...]


class Protocol(msgspec.Struct, frozen=True):
    """All that a trial goes by, fixed when it begins: with it and what was seen, each look can be repeated.

    Attributes
    ----------
    loss
        The headline loss, compared row by row.
    wrong_above
        A loss above which an answer counts as wrong in a canary; None for a classifier, which names the wrong class.
    slow_ms
        The champion's 95th percentile before the trial; None where it is not known, and latencies are not compared.
    """

    strategy: str
    stages: tuple[Stage, ...]
    loss: str
    wrong_above: float | None
    slow_ms: float | None
    metrics: tuple[str, ...] = ()

    def stage(self, mode: Mode) -> Stage:
        return next(one for one in self.stages if one.mode == mode)

    def has(self, mode: Mode) -> bool:
        return any(one.mode == mode for one in self.stages)

    @property
    def first(self) -> Stage:
        return self.stages[0]


class Seen(msgspec.Struct, frozen=True):
    """What a look goes by.

    Attributes
    ----------
    evidence
        Totals of the stage so far by test, one for each share and block of time. Labels that come late change them; what was said
        stays said.
    answered
        Labelled outcomes of the challenger at the share in force.
    waited_s
        Seconds of event time at this share.
    tripped
        Why the service asks the challenger no more; None while it does.
    incomparable
        Why the standby can be asked no more; None while it can. The evidence is then what there was before.
    """

    evidence: dict[str, tuple[Batch, ...]]
    answered: int = 0
    waited_s: float = 0.0
    tripped: str | None = None
    incomparable: str | None = None

    @property
    def samples(self) -> int:
        return sum(_samples(one) for batches in self.evidence.values() for one in batches)


class Judged(msgspec.Struct, frozen=True):
    """What a look comes to: each test at this moment, and what is to be done."""

    looks: dict[str, Look]
    step: Step
    reason: str

    @property
    def verdicts(self) -> dict[str, Verdict]:
        return {name: one.verdict for name, one in self.looks.items()}


def protocol_of(spec: ModelSpec, expected_loss: float | None, slow_ms: float | None) -> Protocol:
    """The protocol that a declaration asks for.

    `alpha` is shared out equally over all tests of all stages, since each of them may end the trial of a good challenger; `beta` is
    not, since a bad one must pass them all.

    Parameters
    ----------
    expected_loss
        The champion's headline loss on its held-out rows: what differences are measured by. Without it losses are not compared, and
        a regression has no canary's quality.
    slow_ms
        The champion's 95th percentile, where it is known.
    """
    rules = spec.release
    slow_ms = slow_ms if rules.slow_ratio is not None else None
    shadow = rules.strategy in ("shadow", "shadow-then-canary")
    knows_loss = expected_loss is not None and expected_loss > 0
    guards = 1 + (slow_ms is not None)
    in_shadow = 1 + knows_loss + guards if shadow else 0
    by_share = spec.task != "regression" or knows_loss
    in_canary = by_share + guards + len(rules.metrics) if rules.has_canary else 0
    alpha = rules.alpha / (in_shadow + in_canary + 1)

    def limits(least: int = 0, most: int | None = None) -> Limits:
        return Limits(alpha, rules.beta, least, most)

    service = [NamedTest(ERRORS, Sprt(limits(), rules.odds_ratio), False)]
    if slow_ms is not None and rules.slow_ratio is not None:
        service.append(NamedTest(LATENCY, Sprt(limits(20), rules.slow_ratio), False))
    stages = []
    if shadow:
        bounds = limits(rules.shadow.min_samples, rules.shadow.max_samples)
        tests = [NamedTest(QUALITY, Sprt(bounds, rules.odds_ratio), True)]
        if knows_loss and expected_loss is not None:
            margin = min(rules.loss_rise, 0.9 * _CLIP) * expected_loss
            tests.append(NamedTest(LOSS, PairedMeans(bounds, margin, _CLIP * expected_loss), True))
        one = rules.shadow
        stages.append(Stage("shadow", (one.share,), one.min_samples, one.patience.total_seconds(), (*tests, *service)))
    if rules.has_canary:
        bounds = limits(rules.canary.min_samples, rules.canary.max_samples)
        tests = [NamedTest(QUALITY, Sprt(bounds, rules.odds_ratio), True)] if by_share else []
        tests += [NamedTest(metric.name, _value_means(metric, bounds), True) for metric in rules.metrics]
        patience = rules.canary.patience.total_seconds()
        stages.append(Stage("canary", rules.canary.shares, rules.canary.min_samples, patience, (*tests, *service)))
    alarm = NamedTest(QUALITY, OddsAlarm(Limits(alpha, rules.beta, rules.shadow.min_samples), rules.odds_ratio), False)
    stages.append(Stage("bake", (1.0,), rules.shadow.min_samples, rules.bake.total_seconds(), (alarm,)))
    return Protocol(
        rules.strategy,
        tuple(stages),
        spec.headline_loss,
        _FAR_OFF * expected_loss if spec.task == "regression" and expected_loss is not None else None,
        slow_ms,
        tuple(one.name for one in rules.metrics),
    )


def judge_trial(protocol: Protocol, mode: Mode, share: float, seen: Seen, said: Mapping[str, Verdict]) -> Judged:
    """What the evidence says, and the one thing to do next. The same arguments give the same answer.

    Parameters
    ----------
    said
        What each test of this stage had said before; nothing at its first look.
    """
    stage = protocol.stage(mode)
    tests = {one.name: _at(one.test, seen.evidence.get(one.name, ()), said.get(one.name)) for one in stage.tests}
    looks = {name: one.look for name, one in tests.items()}
    judged = {name: one.verdict for name, one in tests.items()}
    worse = [name for name, verdict in judged.items() if verdict in ROLLS_BACK]
    if mode == "bake":
        if worse:
            return Judged(looks, "roll back", f"{_told(worse[0], looks)}, against the former champion")
        return Judged(looks, *_after_promotion(stage, seen, looks))
    if seen.tripped is not None:
        return Judged(looks, "dismiss", seen.tripped)
    if worse:
        return Judged(looks, "dismiss", "; ".join(_told(name, looks) for name in worse))
    deciding = [judged[one.name] for one in stage.tests if one.decides]
    come_to = outcome(deciding)
    if come_to == "inconclusive":
        lacking = [one.name for one in stage.tests if one.decides and judged[one.name] == "inconclusive"]
        return Judged(looks, "inconclusive", "; ".join(_told(name, looks) for name in lacking))
    enough = seen.answered >= stage.min_samples
    is_last = share >= stage.shares[-1]
    if is_last and come_to == "promote" and enough:
        on = mode == "shadow" and protocol.has("canary")
        why = "; ".join(_told(one.name, looks) for one in stage.tests if one.decides)
        return Judged(looks, "canary" if on else "promote", why)
    if not is_last and enough and not _leans_against(stage, looks):
        return Judged(looks, "widen", f"{seen.answered} labelled answers, and nothing speaks against it")
    if seen.waited_s >= stage.patience_s:
        days = seen.waited_s / 86_400
        return Judged(looks, "inconclusive", f"undecided after {days:.3g} days at a share of {share:g}")
    return Judged(looks, *_looking(looks))


def next_share(protocol: Protocol, mode: Mode, share: float) -> float:
    """The share after this one.

    Raises
    ------
    ValueError
        When it is the last.
    """
    larger = [one for one in protocol.stage(mode).shares if one > share]
    if not larger:
        raise ValueError(f"{share:g} is the largest share of the {mode}")
    return larger[0]


def _at(test: Test, batches: tuple[Batch, ...], said: Verdict | None) -> Test:
    """The test with all of its evidence, judged once."""
    test = msgspec.structs.replace(test, verdict=said or "continue")
    if not batches:
        return test
    limits = test.limits
    unjudged = msgspec.structs.replace(limits, minimum=_UNJUDGED, maximum=None)
    for batch in batches[:-1]:
        test = msgspec.structs.replace(advance(msgspec.structs.replace(test, limits=unjudged), batch), limits=limits)
    return advance(test, batches[-1])


def _after_promotion(stage: Stage, seen: Seen, looks: Mapping[str, Look]) -> tuple[Step, str]:
    """Of one that is not found worse than the former champion: that stays until the two have been compared for long enough.

    Where that can be asked no more, nothing is left to wait for but the time declared.
    """
    samples = min(looks[one.name].samples for one in stage.tests)
    is_over = seen.waited_s >= stage.patience_s
    if seen.incomparable is not None:
        names = ", ".join(one.name for one in stage.tests)
        why = f"{names} cannot be compared with the former champion any more, after {samples} samples: {seen.incomparable}"
        return ("not comparable", f"{why}; the champion stays") if is_over else ("keep looking", why)
    if not is_over:
        return _looking(looks)
    if samples < stage.min_samples:
        return (
            "keep looking",
            f"too few samples: {samples} of {stage.min_samples}; the former champion stays until then",
        )
    return "settle", "nothing was found in the time declared"


def _leans_against(stage: Stage, looks: Mapping[str, Look]) -> bool:
    """Is any test halfway to its bound against the challenger?"""
    return any(looks[one.name].against > one.test.limits.against / 2 for one in stage.tests)


def _looking(looks: Mapping[str, Look]) -> tuple[Step, str]:
    most = max((one.samples for one in looks.values()), default=0)
    return "keep looking", f"undecided after {most} samples"


def _told(name: str, looks: Mapping[str, Look]) -> str:
    one = looks[name]
    return f"{name} {one.verdict} after {one.samples} samples"


def _value_means(metric: BusinessMetric, limits: Limits) -> ValueMeans:
    larger = metric.better == "larger"
    return ValueMeans(limits, metric.matters, metric.low, metric.high, metric.usual, larger)


def _samples(batch: Batch) -> int:
    return batch.candidate.samples + batch.champion.samples if isinstance(batch, Values) else batch.samples
