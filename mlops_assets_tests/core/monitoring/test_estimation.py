import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.metrics import METRICS, Floats
from mlops_assets.core.monitoring.estimation import (
    ESTIMATED,
    CalibrationMap,
    Estimate,
    LossDispersion,
    compared_metric,
    estimate_alarm,
    estimate_loss,
    estimate_performance,
    fit_calibration,
    refit_calibration,
    with_cluster_error,
)
from mlops_assets_tests.core.examples import make_spec, numbers_spec


def draw(output: Floats, random: np.random.Generator) -> Floats:
    """Labels that come true as often as the outputs say."""
    truth: Floats = (random.random(len(output))[:, None] > output.cumsum(axis=1)[:, :-1]).sum(axis=1).astype(float)
    return truth


def brute_force_auc(score: Floats, chance: Floats) -> float:
    """Expected concordant pairs over expected pairs of different rows, by all pairs."""
    above = (score[:, None] > score[None, :]) + 0.5 * (score[:, None] == score[None, :])
    pairs = np.outer(chance, 1 - chance)
    np.fill_diagonal(pairs, 0)
    return float((above * pairs).sum() / pairs.sum())


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 9)), min_size=2, max_size=40))
@settings(max_examples=100, deadline=None)
def test_the_area_is_that_of_all_pairs(rows: list[tuple[int, int]]) -> None:
    score, chance = (np.array(values) / 10 for values in zip(*rows, strict=True))
    output, calibrated = np.column_stack([1 - score, score]), np.column_stack([1 - chance, chance])
    estimate = estimate_performance(output, calibrated)["roc_auc"]
    assert estimate.value == pytest.approx(brute_force_auc(score, chance), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
@given(seed=st.integers(0, 100_000))
@settings(max_examples=25, deadline=None)
def test_estimates_are_met_within_their_errors_where_the_calibration_is_perfect(classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    output = random.dirichlet(np.arange(1, classes + 1), 1_500)
    truth = draw(output, random)
    for name, estimate in estimate_performance(output, output, 0.4).items():
        realised = METRICS[name].score(truth, output, 0.4)
        assert abs(realised - estimate.value) < 5 * estimate.standard_error + 1e-3, name


@pytest.mark.parametrize("name", ESTIMATED)
def test_standard_errors_have_the_right_size(name: str) -> None:
    random = np.random.default_rng(1)
    output = random.dirichlet([1, 2], 800)
    estimate = estimate_performance(output, output)[name]
    realised = [METRICS[name].score(draw(output, random), output, 0.5) for _ in range(150)]
    assert np.mean(realised) == pytest.approx(estimate.value, abs=4 * estimate.standard_error / 150**0.5 + 5e-4)
    assert np.std(realised) == pytest.approx(estimate.standard_error, rel=0.25)


def test_only_what_is_wanted_is_estimated() -> None:
    output = np.random.default_rng(0).dirichlet([1, 1], 50)
    assert set(estimate_performance(output, output)) == set(ESTIMATED)
    assert set(estimate_performance(output, output, metrics=("roc_auc", "recall"))) == {"roc_auc", "recall"}
    many = np.random.default_rng(0).dirichlet([1, 1, 1], 50)
    assert set(estimate_performance(many, many)) == {"log_loss", "brier", "accuracy", "roc_auc"}


def test_what_is_not_defined_is_no_number() -> None:
    nothing = estimate_performance(np.empty((0, 2)), np.empty((0, 2)))
    assert all(np.isnan(one.value) for one in nothing.values())
    certain = np.tile([1.0, 0.0], (5, 1))
    found = estimate_performance(certain, certain)
    assert np.isnan(found["roc_auc"].value)
    assert np.isnan(found["precision"].value)
    assert found["accuracy"].value == 1


def test_the_calibration_turns_stated_into_realised_frequencies() -> None:
    random = np.random.default_rng(2)
    chance = random.random(40_000)
    truth = (random.random(40_000) < chance).astype(float)
    stated = chance**2
    calibration = fit_calibration(truth, np.column_stack([1 - stated, stated]))
    calibrated = calibration.apply(np.column_stack([1 - stated, stated]))
    assert np.abs(calibrated[:, 1] - chance).mean() < 0.02
    assert calibrated.sum(axis=1) == pytest.approx(1)
    assert (np.diff(calibrated[np.argsort(stated), 1]) >= 0).all()


def test_the_calibration_of_many_classes_sums_to_one() -> None:
    random = np.random.default_rng(3)
    chance = random.dirichlet([2, 1, 1], 30_000)
    truth = draw(chance, random)
    stated = chance**2 / (chance**2).sum(axis=1, keepdims=True)
    calibrated = fit_calibration(truth, stated).apply(stated)
    assert calibrated.sum(axis=1) == pytest.approx(1)
    assert np.abs(calibrated - chance).mean() < np.abs(stated - chance).mean() / 2


def test_a_calibration_survives_json_and_knows_its_classes() -> None:
    random = np.random.default_rng(4)
    output = random.dirichlet([1, 1], 500)
    calibration = fit_calibration(draw(output, random), output)
    assert msgspec.json.decode(msgspec.json.encode(calibration), type=CalibrationMap) == calibration
    with pytest.raises(ValueError, match="2 classes does not go with"):
        calibration.apply(random.dirichlet([1, 1, 1], 5))
    with pytest.raises(ValueError, match="two classes are needed"):
        fit_calibration(np.empty(0), np.empty((0, 2)))


def test_a_refit_takes_the_newest_rows_and_wants_enough_of_every_class() -> None:
    random = np.random.default_rng(5)
    output = random.dirichlet([1, 1], 30_000)
    truth = draw(output, random)
    truth[:10_000] = 0  # what was true long ago
    refitted = refit_calibration(truth, output)
    assert refitted is not None
    assert refitted == fit_calibration(truth[10_000:], output[10_000:])
    assert refitted.rows == 20_000
    assert refit_calibration(truth[-1_999:], output[-1_999:]) is None
    assert refit_calibration(np.zeros(5_000), output[:5_000]) is None


def test_the_expected_error_of_a_regression_comes_from_its_loss_model() -> None:
    random = np.random.default_rng(6)
    expected = random.uniform(1, 9, 3_000)
    loss = random.exponential(expected)
    dispersion = LossDispersion.of(loss, expected)
    assert dispersion.relative_variance == pytest.approx(1, rel=0.2)
    estimate = estimate_loss(expected, dispersion)
    assert estimate.value == pytest.approx(expected.mean())
    realised = [random.exponential(expected).mean() for _ in range(300)]
    assert np.std(realised) == pytest.approx(estimate.standard_error, rel=0.2)
    assert estimate_loss(expected).standard_error == pytest.approx(estimate.standard_error, rel=0.2)
    assert np.isnan(estimate_loss(np.empty(0)).value)
    wider = with_cluster_error({"mae": estimate}, 9.0)["mae"]
    assert wider.value == estimate.value
    assert wider.standard_error == pytest.approx(3 * estimate.standard_error)


@pytest.mark.parametrize(
    ("value", "error", "alarm"),
    [(0.70, 0.01, True), (0.78, 0.001, False), (0.70, 0.04, False), (0.9, 0.01, False)],
    ids=["worse", "within the floor", "within the error", "better"],
)
def test_an_estimate_is_worse_by_the_floor_and_beyond_its_error(value: float, error: float, alarm: bool) -> None:
    spec, known = make_spec(), {"roc_auc": 0.8, "brier": 0.1}
    assert spec.monitoring.floor == 0.1
    estimated = {"roc_auc": Estimate(value, error), "brier": Estimate(9.0, 0.01)}
    why = estimate_alarm(spec, known, estimated)
    assert (why is not None) == alarm
    if why is not None:
        assert why == "without labels, roc_auc is estimated at 0.7 ± 0.01; it was 0.8 on held-out rows"


def test_the_estimated_error_of_a_regression_is_worse_when_it_is_larger() -> None:
    spec = numbers_spec("x")
    assert (compared_metric(spec), compared_metric(make_spec())) == ("mae", "roc_auc")
    assert estimate_alarm(spec, {"mae": 10.0}, {"mae": Estimate(11.5, 0.3)}) is not None
    assert estimate_alarm(spec, {"mae": 10.0}, {"mae": Estimate(10.9, 0.01)}) is None
    assert estimate_alarm(spec, {"mae": 10.0}, {"mae": Estimate(5.0, 0.01)}) is None


@pytest.mark.parametrize(("known", "value"), [({}, 0.6), ({"roc_auc": 0.8}, None), ({"roc_auc": 0.8}, float("nan"))])
def test_what_cannot_be_compared_is_no_alarm(known: dict[str, float], value: float | None) -> None:
    estimated = {} if value is None else {"roc_auc": Estimate(value, 0.01)}
    assert estimate_alarm(make_spec(), known, estimated) is None
