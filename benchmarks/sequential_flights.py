"""The sequential tests of a release on real flights: a stale pair of models against a fresh one, and pairs without a difference.

Stale models were fitted on January and February, fresh ones on March to August; both answer September to December.

- *No difference*: whose answer is whose is drawn for each row, so that both sides are equally good whatever the flights are like;
  a roll back is wrong. Rows come in their real order, from a random moment on.
- *Stale*: the stale model is the candidate; a promotion is wrong. *Fresh*: the fresh one is; a roll back is wrong. Rows come at
  random, so that the truth is the one of all rows.
- *In order*: the stale model is the candidate, rows come in their real order. How often it is promoted is reported and not judged:
  it was fitted on winter months, and is no worse on air times from November on. A test answers for the time it saw.

Nobody is left out of a canary here, which goes by the declared share. Used by `sequential.py`, which see.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from benchmarks.common import SEED, table
from benchmarks.data import flights
from benchmarks.sequential import ERROR, LOOKS_A_FIXED_SAMPLE, Z, fixed_errors, rate_of, with_interval
from mlops_assets.core.sequential import (
    PROMOTES,
    ROLLS_BACK,
    ArmSums,
    Batch,
    Differences,
    Errors,
    Limits,
    OddsAlarm,
    PairedMeans,
    Sprt,
    Test,
    ValueMeans,
    Values,
    Verdict,
    advance,
)

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Pair = Literal["same", "stale", "fresh"]

RUNS: Final = 200
WEEK: Final = 6_300  # flights
CAPPED: Final = 60.0  # minutes of error that count as a business value


@dataclass(frozen=True)
class Losses:
    """Losses of both models on the same rows in time order, each of shape (n,)."""

    stale: Floats
    fresh: Floats


@dataclass(frozen=True)
class Cell:
    """A test with what it is fed: `batch(candidate's losses, champion's, random)`.

    `fixed` is the sample of the fixed-sample test with the same two error rates, of a stale candidate, and `fixed_same` of a pair
    without a difference.
    """

    test: str
    name: str
    start: Test
    losses: Losses
    fixed: int
    fixed_same: int
    batch: Callable[[Floats, Floats, np.random.Generator], Batch]


def on_real_flights() -> dict[str, float | int | None]:
    """Print the table and return the figures."""
    random = np.random.default_rng(SEED)
    figures: dict[str, float | int | None] = {}
    rows = []
    for cell in _cells():
        found: dict[str, float] = {}
        alarm = isinstance(cell.start, OddsAlarm)
        same, samples_same = _rollouts(cell, "same", random)
        found.update(with_interval("alpha", rate_of(_any(same, ROLLS_BACK))))
        stale, samples_stale = _rollouts(cell, "stale", random)
        wrong = ~_any(stale, ROLLS_BACK) if alarm else _any(stale, PROMOTES)
        found.update(with_interval("beta", rate_of(wrong)))
        fresh, _ = _rollouts(cell, "fresh", random)
        found["alpha_fresh"] = float(_any(fresh, ROLLS_BACK).mean())
        stale_ratio, same_ratio = float(samples_stale.mean() / cell.fixed), float(samples_same.mean() / cell.fixed_same)
        found["sample_ratio"] = stale_ratio if alarm else (stale_ratio + same_ratio) / 2
        for name, minimum in (("passed_in_order", 0), ("passed_in_order_after_a_week", WEEK)):
            ended, _ = _rollouts(cell, "stale", random, in_order=True, minimum=minimum)
            found[name] = float((~_any(ended, ROLLS_BACK) if alarm else _any(ended, PROMOTES)).mean())
        figures.update({f"real_{figure}_{cell.test}_{cell.name}": value for figure, value in found.items()})
        shown = ("alpha", "alpha_fresh", "beta", "passed_in_order", "passed_in_order_after_a_week", "sample_ratio")
        rows.append((f"{cell.test} {cell.name}", cell.fixed, *(found[figure] for figure in shown)))
    columns = (
        "test, models",
        "fixed sample",
        "no difference, in order: alpha",
        "fresh: alpha",
        "stale: beta",
        "in order: passed",
        "after a week",
        "samples",
    )
    table(
        f"Real flights, {RUNS} rollouts each: error rates (nominal {ERROR}), samples over the fixed ones", columns, rows
    )
    return figures


def _any(verdicts: list[Verdict], kind: frozenset[Verdict]) -> NDArray[np.bool_]:
    return np.array([one in kind for one in verdicts])


def _rollouts(
    cell: Cell, pair: Pair, random: np.random.Generator, *, in_order: bool = False, minimum: int = 0
) -> tuple[list[Verdict], Floats]:
    """Verdicts, and the samples until then. Pairs without a difference come in their real order."""
    verdicts: list[Verdict] = []
    samples = []
    for _ in range(RUNS):
        rows = _rows(len(cell.losses.stale), in_order or pair == "same", random)
        ended = _rollout(cell, pair, rows, random, minimum)
        verdicts.append(ended.verdict)
        samples.append(ended.samples)
    return verdicts, np.array(samples, dtype=np.float64)


def _rows(count: int, in_order: bool, random: np.random.Generator) -> Rows:
    # the end of the year is followed by September again
    return np.roll(np.arange(count), -int(random.integers(count))) if in_order else random.permutation(count)


def _rollout(cell: Cell, pair: Pair, rows: Rows, random: np.random.Generator, minimum: int) -> Test:
    maximum = None if isinstance(cell.start, OddsAlarm) else 4 * max(cell.fixed, minimum)
    test = _limited(cell.start, Limits(ERROR, ERROR, minimum, maximum))
    look = -(-cell.fixed // LOOKS_A_FIXED_SAMPLE)
    # looks below the minimum decide nothing
    for at in range(minimum, min(len(rows), 4 * max(cell.fixed, minimum)) + look, look):
        some = rows[(0 if at == minimum else at) : at + look]
        mine, theirs = cell.losses.stale[some], cell.losses.fresh[some]
        if pair == "fresh":
            mine, theirs = theirs, mine
        elif pair == "same":
            swapped = random.random(len(some)) < 0.5
            mine, theirs = np.where(swapped, theirs, mine), np.where(swapped, mine, theirs)
        test = advance(test, cell.batch(mine, theirs, random))
        if test.verdict != "continue":
            break
    return test


def _limited(test: Test, limits: Limits) -> Test:
    match test:
        case Sprt(ratio=ratio):
            return Sprt(limits, ratio)
        case OddsAlarm(ratio=ratio):
            return OddsAlarm(limits, ratio)
        case PairedMeans(margin=margin, clip=clip):
            return PairedMeans(limits, margin, clip)
        case ValueMeans():
            return ValueMeans(limits, test.margin, test.low, test.high, higher_is_better=test.higher_is_better)


def _cells() -> Iterator[Cell]:
    """What matters is set just below the difference that the two models have on all rows."""
    limits = Limits(ERROR, ERROR)
    wrong, brier, minutes = _models()
    yield _pairs("discordant", "late", Sprt(limits, 1.25), wrong)
    yield _pairs("discordant", "late_brier", Sprt(limits, 1.24), brier)
    yield _pairs("discordant", "air_time", Sprt(limits, 1.5), minutes)
    yield _pairs("eprocess", "late", OddsAlarm(limits, 1.25), wrong)
    yield _pairs("eprocess", "air_time", OddsAlarm(limits, 1.5), minutes)
    for share in (0.05, 0.2):
        late = Losses((minutes.stale > 15).astype(float), (minutes.fresh > 15).astype(float))
        yield _by_share(f"air_time_share_{share:.0%}".rstrip("%"), 2.0, share, late)
    yield _paired("late_brier", 0.004, 0.3, brier)
    yield _paired("air_time", 3.0, 30.0, minutes)
    for share in (0.05, 0.2):
        yield _values(f"air_time_share_{share:.0%}".rstrip("%"), 3.0, share, minutes)


def _pairs(test: str, name: str, start: Sprt | OddsAlarm, losses: Losses) -> Cell:
    discordant = float((losses.stale != losses.fresh).mean())
    fixed = round(fixed_errors(0.5, start.ratio / (1 + start.ratio)) / discordant)
    return Cell(test, name, start, losses, fixed, fixed, lambda mine, theirs, random: Errors.of_losses(mine, theirs))


def _by_share(name: str, ratio: float, share: float, errors: Losses) -> Cell:
    """Each flight is an entity, answered by one of the two; an error is one of more than a quarter of an hour."""
    needed = fixed_errors(share, share * ratio / (share * ratio + 1 - share))
    stale, fresh = float(errors.stale.mean()), float(errors.fresh.mean())
    fixed, fixed_same = round(needed / (share * stale + (1 - share) * fresh)), round(2 * needed / (stale + fresh))

    def batch(mine: Floats, theirs: Floats, random: np.random.Generator) -> Batch:
        asked = random.random(len(mine)) < share
        return Errors.of_entities(asked, np.where(asked, mine, theirs) > 0, share)

    return Cell("attribution", name, Sprt(Limits(ERROR, ERROR), ratio), errors, fixed, fixed_same, batch)


def _paired(name: str, margin: float, clip: float, losses: Losses) -> Cell:
    spread = float(np.clip(losses.stale - losses.fresh, -clip, clip).std())
    start = PairedMeans(Limits(ERROR, ERROR), margin, clip)
    fixed = round((Z * spread / margin) ** 2)
    return Cell(
        "paired_means",
        name,
        start,
        losses,
        fixed,
        fixed,
        lambda mine, theirs, random: Differences.of(mine, theirs, clip),
    )


def _values(name: str, margin: float, share: float, losses: Losses) -> Cell:
    """The value of an answer is its error in minutes, at most an hour."""
    variances = [float(np.minimum(one, CAPPED).var()) for one in (losses.stale, losses.fresh)]
    fixed = round((Z / margin) ** 2 * (variances[0] / share + variances[1] / (1 - share)))

    def batch(mine: Floats, theirs: Floats, random: np.random.Generator) -> Batch:
        asked = random.random(len(mine)) < share
        return Values(ArmSums.of(mine[asked], 0, CAPPED), ArmSums.of(theirs[~asked], 0, CAPPED), share)

    start = ValueMeans(Limits(ERROR, ERROR), margin, 0, CAPPED, higher_is_better=False)
    return Cell("means", name, start, losses, fixed, fixed, batch)


@functools.cache
def _models() -> tuple[Losses, Losses, Losses]:
    """Errors (0/1) and Brier scores of "late", and the absolute error of the air time in minutes."""
    data = flights()
    assert data.times is not None
    features = data.features.copy()
    for name, kind in data.kinds.items():
        if kind == "category":
            features[name] = features[name].astype("category")
    month = data.times.dt.month.to_numpy()
    late, air_time = data.label.to_numpy(np.float64), data.frame["air_time"].to_numpy(np.float64)
    known = np.isfinite(late) & np.isfinite(air_time)
    scored = known & (month >= 9)
    settings = {
        "categorical_features": "from_dtype",
        "learning_rate": 0.08,
        "max_leaf_nodes": 15,
        "min_samples_leaf": 100,
        "early_stopping": False,
        "random_state": SEED,
    }
    chances, minutes = [], []
    for fitted in (known & (month <= 2), known & (month >= 3) & (month <= 8)):
        with threadpool_limits(1):
            classifier = HistGradientBoostingClassifier(**settings).fit(features[fitted], late[fitted])
            regressor = HistGradientBoostingRegressor(**settings).fit(features[fitted], air_time[fitted])
            chances.append(classifier.predict_proba(features[scored])[:, 1])
            minutes.append(np.abs(regressor.predict(features[scored]) - air_time[scored]))
    wrong = [((one >= 0.5) != (late[scored] == 1)).astype(float) for one in chances]
    brier = [(one - late[scored]) ** 2 for one in chances]
    return Losses(*wrong), Losses(*brier), Losses(*minutes)
