from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats

from mlops_assets.core.sequential import Errors, Limits, OddsAlarm, Sprt
from mlops_assets.core.sequential.odds import log_likelihood_steps, log_mixture

FOREVER = Limits()
BETTER = Limits(aim="better")
shares = st.sampled_from([0.01, 0.05, 0.25, 0.5, 0.9])
counts = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 500))
batches = st.lists(
    st.builds(lambda share, of: Errors(of[0] + of[1] + of[2], of[0], of[1], share), shares, counts), max_size=12
)


def after(test: Any, parts: list[Errors]) -> Any:
    for part in parts:
        test = test.after(part)
    return test


def flags(*values: int) -> NDArray[np.bool_]:
    return np.array(values, dtype=bool)


def test_pairs_count_where_only_one_errs() -> None:
    both = Errors.of_pairs(flags(1, 1, 1, 0, 0), flags(1, 0, 0, 1, 0))
    assert both == Errors(5, 2, 1, 0.5)


def test_losses_count_by_which_is_larger() -> None:
    assert Errors.of_losses(np.array([1.0, 3.0, 2.0]), np.array([1.0, 2.0, 5.0])) == Errors(3, 1, 1, 0.5)
    with pytest.raises(ValueError, match="not finite"):
        Errors.of_losses(np.array([np.nan]), np.array([1.0]))


def test_entities_count_for_whoever_answered() -> None:
    assert Errors.of_entities(flags(1, 1, 0, 0, 0), flags(1, 0, 1, 1, 0), 0.1) == Errors(5, 1, 2, 0.1)


@pytest.mark.parametrize("wrong", [(1, 1, 1, 0.5), (5, -1, 0, 0.5), (5, 1, 1, 0.0), (5, 1, 1, 1.0)])
def test_impossible_counts_are_refused(wrong: tuple[int, int, int, float]) -> None:
    with pytest.raises(ValueError, match=r"do not go|cannot be compared"):
        Errors(*wrong)


def test_different_shares_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="weigh differently"):
        Errors(5, 1, 1, 0.1) + Errors(5, 1, 1, 0.2)


def test_steps_on_pairs_are_those_of_the_formula() -> None:
    """ln(2π₁) where only the candidate errs, ln(2(1 - π₁)) where only the champion does."""
    found = log_likelihood_steps(1.5, 0.5, FOREVER)
    assert found == pytest.approx((np.log(2 * 0.6), np.log(2 * 0.4)))


def test_steps_by_share_are_those_of_the_formula() -> None:
    share, ratio = 0.05, 2.0
    theta = share * ratio / (share * ratio + 1 - share)
    expected = np.log(theta / share), np.log((1 - theta) / (1 - share))
    assert log_likelihood_steps(ratio, share, FOREVER) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(shares, st.floats(1.01, 5))
def test_evidence_starts_fair_and_is_a_martingale_at_either_hypothesis(share: float, ratio: float) -> None:
    """E[e^step] = 1 when the candidate is just good, and E[e^-step] = 1 when it is just bad, for both aims."""
    for limits, good, bad in ((FOREVER, 1.0, ratio), (BETTER, 1 / ratio, 1.0)):
        candidate, champion = log_likelihood_steps(ratio, share, limits)
        for odds, sign in ((good, 1), (bad, -1)):
            theta = share * odds / (share * odds + 1 - share)
            assert theta * np.exp(sign * candidate) + (1 - theta) * np.exp(sign * champion) == pytest.approx(1)


@pytest.mark.parametrize("kind", [Sprt, OddsAlarm])
@settings(max_examples=50, deadline=None)
@given(parts=batches, order=st.randoms())
def test_any_order_and_any_batches_come_to_the_same(kind: Any, parts: list[Errors], order: Any) -> None:
    shuffled = list(parts)
    order.shuffle(shuffled)
    one = after(kind(FOREVER), parts)
    other = after(kind(FOREVER), shuffled)
    assert one.seen == other.seen
    assert one.look.against == other.look.against
    assert one.samples == sum(part.samples for part in parts)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["candidate", "champion", "neither"]), max_size=60), shares)
def test_one_by_one_sees_the_evidence_of_the_batch(outcomes: list[str], share: float) -> None:
    singly = [Errors(1, int(one == "candidate"), int(one == "champion"), share) for one in outcomes]
    whole = Errors(len(outcomes), outcomes.count("candidate"), outcomes.count("champion"), share)
    assert after(Sprt(FOREVER), singly).look.against == Sprt(FOREVER).after(whole).look.against


@settings(max_examples=50, deadline=None)
@given(parts=batches)
def test_more_errors_of_the_candidate_are_more_evidence_against_it(parts: list[Errors]) -> None:
    one_more = Errors(1, 1, 0, 0.25)
    for kind in (Sprt, OddsAlarm):
        before = after(kind(FOREVER), parts)
        assert before.after(one_more).look.against > before.look.against
        assert before.after(Errors(1, 0, 1, 0.25)).look.against < before.look.against
        assert before.after(Errors(1, 0, 0, 0.25)).look.against == pytest.approx(before.look.against, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_on_pairs_the_roles_are_symmetric(first: int, second: int) -> None:
    """The evidence that A is good against B is that B is bad against A, when both ask in opposite directions."""
    here = Sprt(FOREVER).after(Errors(600, first, second))
    there = Sprt(BETTER).after(Errors(600, second, first))
    assert here.look.against == pytest.approx(there.look.in_favour)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 400), st.integers(0, 400), st.sampled_from([1.2, 1.5, 2.0, 4.0]))
def test_on_pairs_the_alarm_is_the_one_sided_beta_binomial_mixture(first: int, second: int, ratio: float) -> None:
    strength = max((1 / (4 * (ratio / (1 + ratio) - 0.5) ** 2) - 1) / 2, 1.0)
    posterior = stats.beta(first + strength, second + strength)
    exact = (
        special.betaln(first + strength, second + strength)
        - special.betaln(strength, strength)
        + posterior.logsf(0.5)
        - stats.beta(strength, strength).logsf(0.5)
        + (first + second) * np.log(2)
    )
    found = OddsAlarm(FOREVER, ratio).after(Errors(first + second, first, second))
    assert found.look.against == pytest.approx(exact, abs=1e-6)


def test_an_alarm_never_promotes_and_has_no_end() -> None:
    alarm = OddsAlarm(FOREVER).after(Errors(1_000_000, 1000, 9000))
    assert (alarm.verdict, alarm.look.in_favour) == ("continue", None)
    assert alarm.after(Errors(100_000, 40_000, 20_000)).verdict == "worse"
    with pytest.raises(ValueError, match="leave its aim and its maximum out"):
        OddsAlarm(Limits(maximum=10))


@pytest.mark.parametrize("ratio", [1.0, 0.5, float("inf"), float("nan")])
def test_a_ratio_that_is_no_disadvantage_is_refused(ratio: float) -> None:
    for kind in (Sprt, OddsAlarm):
        with pytest.raises(ValueError, match="above 1"):
            kind(FOREVER, ratio)


def test_a_test_goes_through_json() -> None:
    test = Sprt(Limits(maximum=10_000)).after(Errors(700, 30, 22, 0.05)).after(Errors(100, 5, 9, 0.25))
    assert msgspec.json.decode(msgspec.json.encode(test), type=Sprt) == test


def errs(random: np.random.Generator, runs: int, looks: int, size: int, rate: Any, share: float, ratio: float) -> Any:
    """Errors of both sides by look, cumulated, each of shape (runs, looks)."""
    candidate = random.binomial(size, share * rate * ratio, (runs, looks))
    champion = random.binomial(size, (1 - share) * rate, (runs, looks))
    return candidate.cumsum(axis=1), champion.cumsum(axis=1)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_error_rates_hold_while_the_base_rate_swings(share: float) -> None:
    random = np.random.default_rng(7)
    rate = 0.15 + 0.1 * np.sin(np.arange(400) / 9)
    bound = -np.log(0.05)
    steps = log_likelihood_steps(1.5, share, FOREVER)
    runs = 500
    for ratio, sign in ((1.0, 1), (1.5, -1)):
        candidate, champion = errs(random, runs, 400, 200, rate, share, ratio)
        path = sign * (candidate * steps[0] + champion * steps[1])
        wrong = int((path.max(axis=1) >= bound).sum())
        assert stats.binomtest(wrong, runs, 0.05, alternative="greater").pvalue > 1e-3
    candidate, champion = errs(random, runs, 400, 200, rate, share, 1.0)
    alarmed = int((log_mixture(1.5, [(share, candidate[:, -1], champion[:, -1])]) >= bound).sum())
    assert stats.binomtest(alarmed, runs, 0.05, alternative="greater").pvalue > 1e-3


def test_a_share_that_changes_between_stages_biases_nothing() -> None:
    """Pooled at one share, a rise of the base rate together with the share looks like a bad canary."""
    random = np.random.default_rng(8)
    wrong = 0
    for _ in range(300):
        test = Sprt(FOREVER)
        for share, rate in ((0.05, 0.05), (0.25, 0.15), (0.5, 0.25)):
            test = test.after(
                Errors(4000, random.binomial(4000, share * rate), random.binomial(4000, (1 - share) * rate), share)
            )
        wrong += test.verdict == "worse"
    assert stats.binomtest(wrong, 300, 0.05, alternative="greater").pvalue > 1e-3
