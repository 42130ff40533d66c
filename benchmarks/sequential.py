"""Realised error rates and samples of the sequential tests of a release, on made-up rollouts whose truth is known.

Each cell is tried with a good candidate (just as good: a roll back is wrong, at most alpha) and a bad one (worse by just what
matters: a promotion is wrong, at most beta), at 5 % both. Base rates swing between 5 and 25 %. Forty looks fall on the sample of
the fixed-sample test with the same error rates, and four times that sample is the maximum; the alarm, which promotes nothing, has
sixteen and ten times, and what it has not found by then is missed. The same on real flights is in `sequential_flights.py`.

As in a trial, who answered goes by the share that came true, in blocks of consecutive looks. `attribution_interrupted` and
`means_interrupted` are canaries that are not asked for a third of the time, in spells, while the champion answers in their place.

Run: ``make bench-sequential``
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.common import SEED, save, table
from mlops_assets.core.sequential import ArmSums, Differences, Errors, Limits, PairedMeans, Sprt, ValueMeans, Values
from mlops_assets.core.sequential.means import bets_of, log_evidence_above
from mlops_assets.core.sequential.odds import log_likelihood_steps, log_mixture

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]
Shape = tuple[int, int]

ERROR: Final = 0.05
OF_THE_SHARE: Final = 50  # entities of a block, at least
BLOCKS: Final = 32  # at most
LIMITS: Final = Limits(alpha=ERROR, beta=ERROR)
RATIO: Final = 1.5
RUNS: Final = 1_000
LOOKS: Final = 160
LOOKS_A_FIXED_SAMPLE: Final = 40
Z: Final = float(2 * stats.norm.ppf(1 - ERROR))  # of both errors together


class Path(NamedTuple):
    """Logarithms of the evidence against and in favour of the candidate at each look, shape (runs, looks)."""

    against: Floats
    in_favour: Floats | None


@dataclass(frozen=True)
class Cell:
    """One situation: `paths(bad, looks of so many samples, random)` are rollouts of a good or of a bad candidate.

    `fixed` is the sample of the fixed-sample test with the same two error rates, and `fixed_bad` the one in which a bad candidate
    makes as many errors as a good one in that.
    """

    test: str
    name: str
    fixed: int
    fixed_bad: int
    paths: Callable[[bool, int, np.random.Generator], Path]
    looks_a_fixed_sample: int = LOOKS_A_FIXED_SAMPLE

    @property
    def look(self) -> int:
        return -(-self.fixed // self.looks_a_fixed_sample)


@dataclass(frozen=True)
class Ended:
    """How rollouts ended, each of shape (runs,); neither: inconclusive. `samples` until then."""

    rolled_back: Flags
    promoted: Flags
    samples: NDArray[np.int64]


def main() -> None:
    """Print the tables and write the figures."""
    from benchmarks.sequential_flights import on_real_flights

    figures = {**_simulated(), **on_real_flights()}
    save("sequential", figures)


def _simulated() -> dict[str, float | int | None]:
    random = np.random.default_rng(SEED)
    figures: dict[str, float | int | None] = {}
    worst: dict[str, list[tuple[float, float, float]]] = {}
    rows = []
    for cell in _cells():
        good, bad = (_ended(cell.paths(truth, cell.look, random), cell.look) for truth in (False, True))
        wrong = good.rolled_back, bad.promoted if cell.test != "eprocess" else ~bad.rolled_back
        undecided = [float((~(one.rolled_back | one.promoted)).mean()) for one in (good, bad)]
        parts = good.samples / cell.fixed, bad.samples / cell.fixed_bad
        ratios = parts[1] if cell.test == "eprocess" else np.concatenate(parts)  # a good candidate is watched for ever
        error = 1.96 * ratios.std() / np.sqrt(len(ratios))
        found = {
            "alpha": rate_of(wrong[0]),
            "beta": rate_of(wrong[1]),
            "sample_ratio": (float(ratios.mean()), float(ratios.mean() - error), float(ratios.mean() + error)),
        }
        for figure, values in found.items():
            worst.setdefault(f"{figure}_{cell.test}", []).append(values)
            figures[f"{figure}_{cell.test}_{cell.name}"] = values[0]
        split = [float(one.mean()) for one in parts]
        rows.append((f"{cell.test} {cell.name}", cell.fixed, *(of[0] for of in found.values()), *split, *undecided))
    columns = ("test, situation", "fixed sample", "alpha", "beta", "samples", "good", "bad", "open, good", "open, bad")
    table(
        f"Made-up rollouts, {RUNS:,} a cell and truth: error rates (nominal {ERROR}), samples over the fixed ones",
        columns,
        rows,
    )
    summary = {}
    for name, cells in worst.items():
        summary.update(with_interval(name, max(cells)))
    return {**summary, **figures}


def rate_of(wrong: Flags) -> tuple[float, float, float]:
    """A share with its 95 % interval (Clopper and Pearson 1934)."""
    found = stats.binomtest(int(wrong.sum()), len(wrong))
    interval = found.proportion_ci(0.95)
    return float(wrong.mean()), float(interval.low), float(interval.high)


def with_interval(name: str, found: tuple[float, float, float]) -> dict[str, float]:
    """A figure under its name, and the ends of its interval."""
    return {name: found[0], f"{name}_low": found[1], f"{name}_high": found[2]}


def fixed_errors(good: float, bad: float) -> int:
    """Errors that the exact binomial test needs, of which the candidate's share is `good` or `bad`, for both error rates."""
    numbers = np.arange(1, 20_000)
    limit = stats.binom.isf(ERROR, numbers, good)  # more than that rejects
    return int(numbers[(stats.binom.sf(limit, numbers, bad) >= 1 - ERROR).argmax()])


def _ended(path: Path, look: int) -> Ended:
    worse = path.against >= LIMITS.against
    fine = np.zeros_like(worse) if path.in_favour is None else (path.in_favour >= LIMITS.in_favour) & ~worse
    decided = worse | fine
    first = np.where(decided.any(axis=1), decided.argmax(axis=1), decided.shape[1] - 1)
    runs = np.arange(len(first))
    return Ended(worse[runs, first], fine[runs, first], (first + 1) * look)


def _cells() -> Iterator[Cell]:
    # a tenth, or two fifths, of the pairs on which one of two equally good models errs are discordant on either side
    for name, part in (("few_pairs", 0.1), ("many_pairs", 0.4)):
        yield _odds_cell("discordant", name, 0.5, part)
    for share in (0.01, 0.05, 0.2, 0.5):
        yield _canary_cell(share)
    for share in (0.05, 0.2):
        yield _canary_cell(share, interrupted=True)
    yield _odds_cell("eprocess", "many_pairs", 0.5, 0.4)
    yield _odds_cell("eprocess", "share_5", 0.05, 1.0)
    for effect in (0.05, 0.1):
        yield _paired_cell(
            f"normal_{effect:.2f}".replace("0.", ""), effect, lambda random, shape: random.normal(size=shape)
        )
    yield _paired_cell("skewed_10", 0.1, lambda random, shape: 1 - random.exponential(size=shape))
    yield _paired_cell("skewed_against_10", 0.1, lambda random, shape: random.exponential(size=shape) - 1)
    for share in (0.05, 0.2, 0.5):
        yield _conversion_cell(share)
    yield _conversion_cell(0.05, interrupted=True)


# ---- errors


def _odds_cell(test: str, name: str, share: float, part: float) -> Cell:
    """Errors of both sides at a base rate that swings; `part` of it is discordant (pairs: of each side)."""
    bad = share * RATIO / (share * RATIO + 1 - share)
    sides = (part, part) if part < 1 else (share, 1 - share)
    looks = 16 if test == "eprocess" else LOOKS_A_FIXED_SAMPLE
    errors = fixed_errors(share, bad)
    fixed, fixed_bad = (round(errors / (0.15 * (sides[0] * ratio + sides[1]))) for ratio in (1.0, RATIO))

    def paths(worse: bool, look: int, random: np.random.Generator) -> Path:
        shape = (RUNS, LOOKS)
        base = _swinging(shape, random)
        theirs = random.binomial(look, sides[1] * base).cumsum(axis=1)
        mine = random.binomial(look, sides[0] * base * (RATIO if worse else 1.0)).cumsum(axis=1)
        if test == "eprocess":
            columns = (log_mixture(RATIO, [(share, mine[:, at], theirs[:, at])]) for at in range(LOOKS))
            return Path(np.stack(list(columns), axis=1), None)
        steps = log_likelihood_steps(RATIO, share, LIMITS)
        against = mine * steps[0] + theirs * steps[1]
        whole = Sprt(LIMITS, RATIO).after(Errors(look * LOOKS, int(mine[0, -1]), int(theirs[0, -1]), share))
        assert np.isclose(whole.look.against, against[0, -1])
        return Path(against, -against)

    return Cell(test, name, fixed, fixed_bad, paths, looks)


def _canary_cell(share: float, *, interrupted: bool = False) -> Cell:
    """Errors of entities that are drawn for either side, at a base rate that swings."""
    errors = fixed_errors(share, share * RATIO / (share * RATIO + 1 - share))
    fixed, fixed_bad = (round(errors / (0.15 * (share * ratio + 1 - share))) for ratio in (1.0, RATIO))

    def paths(worse: bool, look: int, random: np.random.Generator) -> Path:
        base = _swinging((RUNS, LOOKS), random)
        entities, others = _asked(share, look, random, interrupted=interrupted)
        mine = random.binomial(entities, base * (RATIO if worse else 1.0))
        theirs = random.binomial(others, base)
        against = np.zeros(base.shape)
        seen = []
        for block in _blocks(share, look):
            counts = [one[:, block].cumsum(axis=1) for one in (entities, others, mine, theirs)]
            both = (counts[0] > 0) & (counts[1] > 0)
            came_true = np.where(both, counts[0] / np.maximum(counts[0] + counts[1], 1), 0.5)
            scale = np.log(came_true * RATIO + 1 - came_true)
            steps = np.where(both, counts[2] * (np.log(RATIO) - scale) - counts[3] * scale, 0.0)
            against[:, block] = steps + (against[:, [block.start - 1]] if block.start else 0.0)
            if both[0, -1]:
                number, *wrong = (int(one[0, -1]) for one in (counts[0] + counts[1], counts[2], counts[3]))
                seen.append(Errors(number, *wrong, float(came_true[0, -1])))
        whole = Sprt(LIMITS, RATIO)
        for one in seen:
            whole = whole.after(one)
        assert np.isclose(whole.look.against, against[0, -1])
        return Path(against, -against)

    name = f"share_{share:.0%}".rstrip("%")
    return Cell("attribution_interrupted" if interrupted else "attribution", name, fixed, fixed_bad, paths)


def _asked(share: float, look: int, random: np.random.Generator, *, interrupted: bool) -> tuple[Counts, Counts]:
    """Entities that each side has answered at each look, shape (runs, looks); what a challenger is not asked is left out."""
    entities = random.binomial(look, share, (RUNS, LOOKS))
    others = look - entities
    if interrupted:
        entities = entities * (np.arange(LOOKS) // 10 % 3 > 0)
    return entities, others


def _blocks(share: float, look: int) -> Iterator[slice]:
    """Looks of a block."""
    length = max(-(-LOOKS // BLOCKS), ceil(OF_THE_SHARE / (share * look)))
    return (slice(begin, min(begin + length, LOOKS)) for begin in range(0, LOOKS, length))


def _swinging(shape: Shape, random: np.random.Generator) -> Floats:
    """Base rates between 5 and 25 %, one wave in 29 looks, each rollout from another moment on."""
    return 0.15 + 0.1 * np.sin(2 * np.pi * (np.arange(shape[1]) / 29 + random.random((shape[0], 1))))


# ---- means


def _paired_cell(name: str, effect: float, draw: Callable[[np.random.Generator, Shape], Floats]) -> Cell:
    """Differences with mean 0 or `effect` standard deviations after they were cut off at four."""
    clip = 4.0
    centre = float(np.clip(draw(np.random.default_rng(SEED), (1, 4_000_000)), -clip, clip).mean())
    fixed = round((Z / effect) ** 2)

    def paths(worse: bool, look: int, random: np.random.Generator) -> Path:
        total, squares = np.empty((RUNS, LOOKS)), np.empty((RUNS, LOOKS))
        for at in range(LOOKS):
            # the cut comes first and the shift after it, so that the mean is known: hence the wider clip of the test
            z = np.clip(draw(random, (RUNS, look)), -clip, clip) - centre + (effect if worse else 0.0)
            total[:, at], squares[:, at] = z.sum(axis=1), (z**2).sum(axis=1)
        reach = clip + 0.2
        path = _means(total.cumsum(axis=1), squares.cumsum(axis=1), look, reach, effect, effect / reach)
        test = PairedMeans(LIMITS, effect, reach)
        for at in range(LOOKS):
            test = test.after(Differences(look, total[0, at], squares[0, at], reach))
        assert np.isclose(test.look.against, path.against[0, -1])
        return path

    return Cell("paired_means", name, fixed, fixed, paths)


def _conversion_cell(share: float, *, interrupted: bool = False) -> Cell:
    """Conversions at a level that swings; the bad candidate converts three points less."""
    margin = 0.03
    spread = 0.15 * 0.85 / (share * (1 - share))
    fixed = round(Z**2 * spread / margin**2)

    def paths(worse: bool, look: int, random: np.random.Generator) -> Path:
        level = _swinging((RUNS, LOOKS), random)
        entities, others = _asked(share, look, random, interrupted=interrupted)
        mine = random.binomial(entities, level - (margin if worse else 0.0))
        theirs = random.binomial(others, level)
        evidence = _Evidence(margin)
        whole = ValueMeans(LIMITS, margin)
        for block in _blocks(share, look):
            arms = [one[:, block].cumsum(axis=1) for one in (entities, mine, others, theirs)]
            evidence.add(block, *arms)
            sides = [tuple(int(one[0, -1]) for one in arms[at : at + 2]) for at in (0, 2)]
            if sides[0][0]:
                sums = [ArmSums(number, float(ones), float(ones)) for number, ones in sides]
                whole = whole.after(Values(sums[0], sums[1], sides[0][0] / (sides[0][0] + sides[1][0])))
        path = evidence.path
        assert np.isclose(whole.look.against, path.against[0, -1])
        return path

    name = f"share_{share:.0%}".rstrip("%")
    return Cell("means_interrupted" if interrupted else "means", name, fixed, fixed, paths)


class _Evidence:
    """The evidence of `ValueMeans` on many rollouts at once, block by block."""

    def __init__(self, margin: float) -> None:
        self._bets = bets_of(margin)
        self._sides = ((0.0, 1), (-margin, -1))
        self._exponents = np.zeros((2, RUNS, LOOKS, len(self._bets)))
        self._known, self._total = np.zeros((RUNS, 1)), np.zeros((RUNS, 1))

    def add(self, block: slice, entities: Counts, mine: Counts, others: Counts, theirs: Counts) -> None:
        """Entities of both sides and how many of them converted, from the begin of a block on, each of shape (runs, looks)."""
        both = (entities > 0) & (others > 0)
        number = entities + others
        share = np.where(both, entities / np.maximum(number, 1), 0.5)
        centre = np.where(self._known > 0, self._total / np.maximum(self._known, 1), 0.5)
        harm = (theirs - others * centre) / (1 - share) - (mine - entities * centre) / share
        squares = _squares(mine, entities, centre) / share**2 + _squares(theirs, others, centre) / (1 - share) ** 2
        reach = 1 / np.minimum(share, 1 - share)
        for side, (limit, sign) in enumerate(self._sides):
            sums = number.ravel().astype(np.float64), sign * harm.ravel(), squares.ravel(), reach.ravel()
            found = log_evidence_above(np.array([limit]), *sums, self._bets).reshape(*number.shape, -1)
            before = self._exponents[side][:, [block.start - 1]] if block.start else 0.0
            self._exponents[side][:, block] = np.where(both[..., None], found, 0.0) + before
        self._known = self._known + np.where(both, number, 0)[:, -1:]
        self._total = self._total + np.where(both, mine + theirs, 0)[:, -1:]

    @property
    def path(self) -> Path:
        mixed = np.logaddexp.reduce(self._exponents, axis=3) - np.log(len(self._bets))
        return Path(mixed[0], mixed[1])


def _squares(ones: NDArray[np.int64], number: NDArray[np.int64], centre: Floats) -> Floats:
    return ones * (1 - centre) ** 2 + (number - ones) * centre**2


def _means(total: Floats, squares: Floats, look: int, reach: float, margin: float, smallest_bet: float) -> Path:
    bets = bets_of(smallest_bet)
    samples = np.broadcast_to(look * np.arange(1, LOOKS + 1), total.shape).ravel().astype(np.float64)

    def evidence(limit: float, sign: int) -> Floats:
        paths = log_evidence_above(np.array([limit]), samples, sign * total.ravel(), squares.ravel(), reach, bets)
        return np.logaddexp.reduce(paths, axis=1).reshape(total.shape) - np.log(len(bets))

    return Path(evidence(0.0, 1), evidence(-margin, -1))


if __name__ == "__main__":
    main()
