from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from mlops_assets.core.sequential import ArmSums, Differences, Limits, PairedMeans, ValueMeans, Values
from mlops_assets.core.sequential.means import bets_of, log_evidence_above

Array = NDArray[np.float64]
FOREVER = Limits()
BETTER = Limits(aim="better")
losses = arrays(np.float64, st.integers(0, 40), elements=st.floats(-3, 3))


def differences(values: Array) -> Differences:
    return Differences.of(values, np.zeros(len(values)), 1.0)


def paired(values: Array, limits: Limits = FOREVER) -> PairedMeans:
    return PairedMeans(limits, margin=0.1, clip=1.0).after(differences(values))


def values_of(candidate: Array, champion: Array, share: float) -> Values:
    return Values(ArmSums.of(candidate, 0, 1), ArmSums.of(champion, 0, 1), share)


def test_differences_are_cut_off() -> None:
    assert Differences.of(np.array([5.0, 0.5, 0.0]), np.array([0.0, 0.0, 9.0]), 1.0) == Differences(3, 0.5, 2.25, 1.0)
    assert ArmSums.of(np.array([-1.0, 0.5, 7.0]), 0, 2) == ArmSums(3, 2.5, 4.25)


@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(strange: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        Differences.of(np.array([strange]), np.array([0.0]), 1.0)
    with pytest.raises(ValueError, match="not finite"):
        ArmSums.of(np.array([strange]), 0, 1)


def test_declarations_that_cannot_be_decided_are_refused() -> None:
    with pytest.raises(ValueError, match="the margin"):
        PairedMeans(FOREVER, margin=1.0, clip=1.0)
    with pytest.raises(ValueError, match="the margin"):
        ValueMeans(FOREVER, margin=0.0)
    with pytest.raises(ValueError, match="usual value"):
        ValueMeans(FOREVER, margin=0.1, centre=2.0)
    with pytest.raises(ValueError, match="cut off at"):
        paired(np.zeros(1)).after(Differences(1, 0.0, 0.0, 2.0))
    with pytest.raises(ValueError, match="cannot be added"):
        Differences(1, 0.0, 0.0, 2.0) + Differences(1, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="cannot be compared"):
        values_of(np.zeros(1), np.zeros(1), 1.0)


@settings(max_examples=50, deadline=None)
@given(losses, losses)
def test_batches_of_pairs_merge(first: Array, second: Array) -> None:
    together = paired(np.concatenate([first, second])).look
    apart = paired(first).after(differences(second)).look
    assert apart.samples == together.samples
    assert apart.against == pytest.approx(together.against, abs=1e-9)
    assert apart.in_favour == pytest.approx(together.in_favour, abs=1e-9)
    assert paired(np.zeros(0)).after(differences(first) + differences(second)).look.against == pytest.approx(
        together.against, abs=1e-9
    )


@settings(max_examples=50, deadline=None)
@given(losses)
def test_the_roles_are_symmetric(values: Array) -> None:
    """What speaks against A, asked for "not worse", speaks for B, asked for "better"."""
    here, there = paired(values).look, paired(-values, BETTER).look
    assert here.against == pytest.approx(there.in_favour, abs=1e-9)
    assert here.in_favour == pytest.approx(there.against, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.floats(-1, 1), st.floats(0, 1), st.floats(0.001, 0.5))
def test_a_higher_mean_of_the_same_spread_is_more_evidence(
    samples: int, mean: float, spread: float, rise: float
) -> None:
    def evidence(at: float) -> Array:
        sums = np.array([samples]), np.array([samples * at]), np.array([samples * (at**2 + spread)])
        # of values above the limit; far below it the bound fades, and there nothing is decided
        return log_evidence_above(np.zeros(1), *sums, 3.0, bets_of(0.05))

    if mean >= 0 and mean + rise <= 1:
        assert (evidence(mean + rise)[0, 0] >= evidence(mean)[0, 0]).all()


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(-1, 1)), st.floats(-0.5, 0.5))
def test_evidence_is_never_above_the_wealth_of_the_gambler(values: Array, limit: float) -> None:
    """exp(λξ - ξ²ψ(λ)) <= Π(1 + λξ), whose mean is at most 1: so the evidence is one of an e-value at any sample."""
    bets = bets_of(0.01)
    sums = np.array([len(values)]), np.array([values.sum()]), np.array([(values**2).sum()])
    wealth = np.log1p(bets[:, None] * (values - limit) / (1 + limit)).sum(axis=1)
    assert (log_evidence_above(np.array([limit]), *sums, 1.0, bets)[0] <= wealth + 1e-9).all()


def test_bets_begin_at_the_margin_and_stay_below_all() -> None:
    bets = bets_of(0.01)
    assert bets[0] == pytest.approx(0.01)
    assert bets[-1] == pytest.approx(0.75)
    assert (np.diff(np.log(bets)) <= np.log(1.5) + 1e-9).all()
    assert len(bets_of(0.99)) > 1


@pytest.mark.parametrize(
    ("mean", "limits", "said"),
    [
        (0.1, FOREVER, "worse"),
        (0.0, FOREVER, "not worse"),
        (-0.3, FOREVER, "not worse"),
        (-0.1, BETTER, "better"),
        (0.0, BETTER, "not better"),
    ],
)
def test_a_clear_difference_is_decided(mean: float, limits: Limits, said: str) -> None:
    values = np.random.default_rng(3).normal(mean, 0.3, 2000)
    assert paired(values, limits).verdict == said


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("unit", [1.0, 250.0])
def test_values_are_judged_alike_in_any_unit(higher_is_better: bool, unit: float) -> None:
    random = np.random.default_rng(4)
    test = ValueMeans(FOREVER, 0.1 * unit, high=unit, higher_is_better=higher_is_better)
    for _ in range(30):
        mine, theirs = (random.random(100) < 0.3) * unit, (random.random(900) < 0.5) * unit
        test = test.after(Values(ArmSums.of(mine, 0, unit), ArmSums.of(theirs, 0, unit), 0.1))
    assert test.verdict == ("worse" if higher_is_better else "not worse")
    assert test.interval.mean == pytest.approx(0.2 * unit * (1 if higher_is_better else -1), rel=0.15)
    assert test.interval.low < test.interval.mean < test.interval.high


def test_evidence_does_not_depend_on_the_unit() -> None:
    for unit in (1.0, 1e-3, 1e6):
        test = ValueMeans(FOREVER, 0.05 * unit, high=unit)
        part = Values(ArmSums(40, 11.0 * unit, 9.0 * unit**2), ArmSums(360, 100.0 * unit, 80.0 * unit**2), 0.1)
        look = test.after(part).after(part).look
        assert (look.against, look.in_favour) == pytest.approx((LOOK[0], LOOK[1]))


PART = Values(ArmSums(40, 11.0, 9.0), ArmSums(360, 100.0, 80.0), 0.1)
_look = ValueMeans(FOREVER, 0.05).after(PART).after(PART).look
LOOK = (_look.against, _look.in_favour)


def test_a_level_that_rises_with_the_share_biases_nothing() -> None:
    """Pooled by side, the candidate would look much better: most of its entities came when the level was high."""
    random = np.random.default_rng(5)
    test = ValueMeans(FOREVER, 0.05)
    for share, level in ((0.05, 0.1), (0.25, 0.3), (0.5, 0.6)):
        for _ in range(10):
            mine = random.binomial(1000, share)
            test = test.after(
                values_of(
                    (random.random(mine) < level).astype(float),
                    (random.random(1000 - mine) < level).astype(float),
                    share,
                )
            )
    assert abs(test.interval.mean) < 0.02
    assert test.verdict == "not worse"


def test_confidence_sequence_covers_at_all_looks() -> None:
    random = np.random.default_rng(6)
    missed, runs = 0, 40
    for _ in range(runs):
        test = PairedMeans(FOREVER, margin=0.05, clip=1.0)
        values = np.clip(random.normal(0.03, 0.4, 2000), -1, 1)
        covered = True
        for at in range(0, 2000, 500):
            test = test.after(differences(values[at : at + 500]))
            covered &= test.interval.low <= 0.03 <= test.interval.high
        missed += not covered
    assert stats.binomtest(missed, runs, 0.1, alternative="greater").pvalue > 1e-3


def test_nothing_seen_has_no_interval() -> None:
    assert np.isnan(PairedMeans(FOREVER, margin=0.1, clip=1.0).interval).all()


@pytest.mark.parametrize("test", [PairedMeans(FOREVER, 0.1, 1.0), ValueMeans(FOREVER, 0.1)])
def test_a_test_goes_through_json(test: Any) -> None:
    part = differences(np.array([0.1, 0.7])) if isinstance(test, PairedMeans) else PART
    seen = test.after(part)
    assert msgspec.json.decode(msgspec.json.encode(seen), type=type(seen)) == seen


@pytest.mark.parametrize("spread", [0.1, 0.5])
def test_error_rates_hold_at_any_look(spread: float) -> None:
    """Skewed differences, clipped; looks after every 50 rows."""
    random = np.random.default_rng(9)
    runs, rows, margin = 1000, 2000, 0.05
    skewed = np.clip(random.exponential(spread, (runs, rows)), 0, 1)
    population = 1 - np.exp(-1 / spread)  # mean of the clipped exponential, over its scale
    bets = bets_of(margin)
    for mean, limit, sign in ((0.0, 0.0, 1), (margin, -margin, -1)):
        z = sign * (skewed - spread * population + mean)
        at = np.arange(49, rows, 50)
        total, squares = z.cumsum(axis=1)[:, at].ravel(), (z**2).cumsum(axis=1)[:, at].ravel()
        paths = log_evidence_above(np.array([limit]), np.tile(at + 1, runs), total, squares, 1.0 + margin, bets)
        evidence = np.logaddexp.reduce(paths, axis=1).reshape(runs, -1) - np.log(len(bets))
        wrong = int((evidence.max(axis=1) >= -np.log(0.05)).sum())
        assert stats.binomtest(wrong, runs, 0.05, alternative="greater").pvalue > 1e-3
