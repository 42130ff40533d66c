from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from mlops_assets.core.imputation import make_plan
from mlops_assets.core.metrics import Floats
from mlops_assets.core.scoring.scorer import CompiledScorer
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import fit_pipeline, predict, split_training_rows
from mlops_assets.operations.cross_fit import answer_out_of_sample
from mlops_assets.operations.loss_model import fit_loss_model
from mlops_assets_tests.core.examples import make_frame, make_spec


def regression() -> ModelSpec:
    return make_spec(
        task="regression",
        label={"column": "y", "delay": "1h"},
        training={"estimator": "sklearn.linear_model.LinearRegression", "holdout": "5d"},
    )


def rows_with_losses(rows: int = 4_000) -> tuple[pd.DataFrame, Floats]:
    """Errors are four times as large in flights of one carrier."""
    frame = make_frame(rows, y=0.0)
    scale = np.where(frame["carrier"] == "UA", 8.0, 2.0)
    return frame, np.random.default_rng(1).exponential(scale)


def expected(scorer: CompiledScorer, frame: pd.DataFrame) -> Floats:
    return scorer.score_columns({name: frame[name].to_numpy() for name in scorer.features})[:, 0]


def test_a_loss_model_finds_where_errors_are_large_and_keeps_their_mean() -> None:
    frame, losses = rows_with_losses()
    scorer = fit_loss_model(regression(), frame, losses)
    assert scorer is not None
    answers = expected(scorer, frame)
    assert answers.mean() == pytest.approx(losses.mean(), rel=0.01)
    assert (answers > 0).all()
    assert answers[frame["carrier"] == "UA"].mean() == pytest.approx(8, rel=0.15)
    assert answers[frame["carrier"] == "AA"].mean() == pytest.approx(2, rel=0.2)


def test_a_loss_model_is_stored_as_arrays() -> None:
    frame, losses = rows_with_losses()
    spec = regression()
    scorer = fit_loss_model(spec, frame, losses, make_plan(spec, frame))
    assert scorer is not None
    again = CompiledScorer.from_files(*scorer.to_files())
    assert (expected(again, frame) == expected(scorer, frame)).all()
    assert sum(map(len, scorer.to_files())) < 60_000


def test_where_features_tell_nothing_there_is_no_loss_model() -> None:
    frame, losses = rows_with_losses()
    assert fit_loss_model(regression(), frame, np.ones(len(frame))) is None
    assert fit_loss_model(regression(), frame, np.zeros(len(frame))) is None
    assert fit_loss_model(regression(), frame.head(900), losses[:900]) is None


def test_losses_are_one_number_a_row() -> None:
    frame, losses = rows_with_losses(50)
    for wrong in (losses[1:], -losses, losses * np.nan):
        with pytest.raises(ValueError, match="one loss of at least 0 for each of 50"):
            fit_loss_model(regression(), frame, wrong)


def test_earlier_rows_are_answered_by_fits_that_had_not_seen_them() -> None:
    spec, frame = regression(), make_frame(24 * 40, y=0.0)
    frame["y"] = np.arange(len(frame)) / 24.0  # grows by 1 a day, so that the answer tells until when a fit has learnt
    rows = split_training_rows(spec, frame, datetime(2024, 2, 10, tzinfo=UTC))
    gated = fit_pipeline(spec, rows.fit, make_plan(spec, rows.fit), ())
    found = answer_out_of_sample(spec, rows, gated, (), blocks=20)
    times = found.rows["at"]
    assert times.is_monotonic_increasing
    assert times.iloc[0].to_pydatetime() == rows.end - timedelta(days=20)
    assert len(times) == 24 * 20
    assert (found.output[-len(rows.holdout) :] == predict(gated, rows.holdout[list(spec.feature_names)])).all()
    assert (found.truth - found.output[:, 0] > 0).mean() > 0.99  # the future lies above whatever was learnt
    enough = answer_out_of_sample(spec, rows, gated, (), blocks=5)
    assert len(enough.rows) == len(rows.holdout)


def test_a_fold_before_which_a_class_is_absent_is_left_out() -> None:
    training = {
        "estimator": "sklearn.linear_model.LogisticRegression",
        "parameters": {"max_iter": 1000},
        "holdout": "5d",
    }
    spec, frame = make_spec(training=training), make_frame(960)
    frame["late"] = pd.Series([0] * 600 + [0, 1] * 180, dtype=object)
    frame[["temp", "seats", "night"]] = frame[["temp", "seats", "night"]].fillna(0.0)
    rows = split_training_rows(spec, frame, datetime(2024, 2, 10, tzinfo=UTC))
    gated = fit_pipeline(spec, rows.fit, make_plan(spec, rows.fit), (0, 1))
    found = answer_out_of_sample(spec, rows, gated, (0, 1), blocks=30)
    assert len(rows.holdout) < len(found.rows) < 24 * 30
    assert found.output.shape == (len(found.rows), 2)
