"""Masks and constants, on small real models."""

from typing import Any

import msgspec
import numpy as np
import pytest

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.scoring.degraded import CannotDegrade, constant_output, mask_of, require_maskable
from mlops_assets.core.scoring.load import verified_scorer
from mlops_assets_tests.serving.factory import Task, small_model

ROW = (50.5, 100.0, False, "AA", "JFK", 1000.0)


def test_a_mask_takes_the_values_away_and_leaves_the_row_as_it_came() -> None:
    mask = mask_of(small_model().manifest, ["carrier", "temp"])
    assert mask(ROW) == (None, 100.0, False, None, "JFK", 1000.0)
    assert mask(list(ROW)) == mask(mask(ROW))
    assert ROW[0] == 50.5


def test_an_unknown_feature_is_named() -> None:
    with pytest.raises(CannotDegrade, match=r"'delay' version 1 knows no wind that could .* choose from temp, seats"):
        mask_of(small_model().manifest, ["temp", "wind"])


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "scikit-learn"])
def test_a_feature_that_must_not_be_missing_may_be_masked_where_something_fills_it(compiled: bool) -> None:
    model = small_model(compiled=compiled)
    scorer, golden = verified_scorer(model.manifest, model.files)
    mask = require_maskable(model.manifest, scorer, ["distance"], golden.rows)
    filled = model.manifest.imputation["distance"].value
    expected = scorer.score_rows([(*ROW[:5], filled)])
    np.testing.assert_allclose(scorer.score_rows([mask(ROW)]), expected, rtol=0, atol=1e-12)


def test_a_feature_that_nothing_fills_is_named() -> None:
    model = small_model()
    scorer, golden = verified_scorer(model.manifest, model.files)
    plan = model.manifest.imputation
    features = tuple(
        msgspec.structs.replace(one, value=None) if one.name == "distance" else one for one in plan.features
    )
    manifest = msgspec.structs.replace(model.manifest, imputation=msgspec.structs.replace(plan, features=features))
    with pytest.raises(CannotDegrade, match="has nothing to fill a missing distance with"):
        require_maskable(manifest, scorer, ["distance"], golden.rows)


class Broken:
    """A scorer that knows no missing values."""

    features, outputs = ("temp",), 1

    def score_rows(self, rows: Any) -> Any:
        return np.full((len(rows), 1), np.nan)

    def score_row(self, row: Any) -> Any:
        return self.score_rows([row])[0].tolist()

    def warm_up(self) -> None:
        pass


def test_a_model_that_gives_no_number_without_the_value_cannot_be_masked() -> None:
    with pytest.raises(CannotDegrade, match="gives no finite number without temp"):
        require_maskable(small_model().manifest, Broken(), ["temp"], [ROW])


@pytest.mark.parametrize(
    ("task", "value", "output"),
    [
        ("binary", 0.25, (0.75, 0.25)),
        ("binary", 0, (1.0, 0.0)),
        ("multiclass", "late", (0.0, 1.0, 0.0)),
        ("regression", -3, (-3.0,)),
    ],
)
def test_the_constant_is_an_output_of_the_model(task: Task, value: Any, output: tuple[float, ...]) -> None:
    assert constant_output(manifest(task), value) == output


@pytest.mark.parametrize(
    ("task", "value", "why"),
    [
        ("binary", None, "no number"),
        ("binary", 1.2, "no probability"),
        ("multiclass", "never", "none of the classes early, late, on time"),
        ("regression", "late", "no number"),
    ],
)
def test_what_is_no_answer_of_the_model_is_refused(task: Task, value: Any, why: str) -> None:
    with pytest.raises(CannotDegrade, match=why):
        constant_output(manifest(task), value)


def manifest(task: Task) -> Manifest:
    return small_model("delay", task).manifest
