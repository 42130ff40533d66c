"""Attributions: they add up, they are Shapley's where these are known, and they know missing and unseen values.

What needs `shap` is slow: it takes seconds to import, and as many to compile.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.contract import raw_rows
from mlops_assets.core.explaining import Attribution, Background, CannotExplain, NotInstalled, attribute
from mlops_assets.core.imputation import make_plan
from mlops_assets.core.manifest import Manifest
from mlops_assets.core.scoring.compile import compile_pipeline
from mlops_assets.core.scoring.load import load_scorer
from mlops_assets.core.scoring.scorer import Scorer, Value
from mlops_assets.core.training import find_classes, fit_pipeline
from mlops_assets_tests.serving.explained import background_of
from mlops_assets_tests.serving.factory import START, SmallModel, Task, manifest_of, small_model, small_spec

Row = tuple[Value, ...]


def explained(model: SmallModel, row: Sequence[Value]) -> Attribution:
    scorer = load_scorer(model.manifest, model.files)
    return attribute(model.manifest, scorer, background_of(model), row)


def require_sum(found: Attribution) -> None:
    assert found.base + sum(found.contributions) == pytest.approx(found.value, abs=1e-9)


@pytest.mark.slow
class TestOfRealModels:
    @pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "scikit-learn"])
    @pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
    def test_contributions_are_the_answer_less_the_mean_of_the_background(self, task: Task, compiled: bool):
        model = small_model("delay", task, compiled=compiled)
        scorer = load_scorer(model.manifest, model.files)
        background = background_of(model)
        for row in raw_rows(model.manifest.features, model.fresh.head(4)):
            found = attribute(model.manifest, scorer, background, row)
            require_sum(found)
            outputs, others = scorer.score_rows([row])[0], scorer.score_rows(background.rows)
            assert found.outputs == pytest.approx(outputs, abs=1e-12)
            if found.space == "log-odds":
                outputs, others = np.log(outputs / (1 - outputs)), np.log(others / (1 - others))
            assert found.value == pytest.approx(outputs[found.output], abs=1e-9)
            assert found.base == pytest.approx(others[:, found.output].mean(), abs=1e-9)

    def test_the_space_is_the_one_in_which_the_model_adds_up(self):
        row = raw_rows(small_model().manifest.features, small_model().fresh.head(1))[0]
        spaces = {
            (task, compiled): explained(small_model("delay", task, compiled=compiled), row).space
            for task in ("binary", "multiclass", "regression")
            for compiled in (True, False)
        }
        assert spaces == {
            ("binary", True): "log-odds",
            ("binary", False): "probability",
            ("multiclass", True): "probability",
            ("multiclass", False): "probability",
            ("regression", True): "value",
            ("regression", False): "value",
        }

    def test_of_many_classes_the_answered_one_is_explained(self):
        model = small_model("delay", "multiclass")
        for row in raw_rows(model.manifest.features, model.fresh.head(6)):
            found = explained(model, row)
            assert found.output == int(np.argmax(found.outputs))
            assert found.value == max(found.outputs)

    def test_missing_and_unseen_values_are_explained_as_they_are_answered(self):
        model = small_model()
        row = (None, 100.0, None, "never seen", None, 1000.0)
        found = explained(model, row)
        require_sum(found)
        median, seen = model.manifest.imputation["temp"].value, (50.5, 100.0, False, "AA", "JFK", 1000.0)
        assert isinstance(median, float)
        filled = explained(model, (median, *row[1:]))
        assert found.contributions == pytest.approx(filled.contributions, abs=1e-9), "by what is filled in"
        assert explained(model, seen).contributions != found.contributions

    def test_the_same_row_is_explained_the_same_way_again(self):
        model = wide_model(8)
        row = model.rows[-1]
        assert attribute(*model.game, row) == attribute(*model.game, row)


@dataclass(frozen=True)
class WideModel:
    """A boosted regression on numbers alone, whose trees TreeExplainer knows.

    They are quarters, which float32 holds: TreeExplainer rounds others, takes some to the other side of a split, and its values
    do not add up then.
    """

    trees: Any
    game: tuple[Manifest, Scorer, Background]
    rows: list[Row]

    def exact(self, row: Row) -> np.ndarray:
        import shap

        explainer = shap.TreeExplainer(
            self.trees, data=np.array(self.game[2].rows, dtype=np.float64), feature_perturbation="interventional"
        )
        values: np.ndarray = explainer.shap_values(np.array([row], dtype=np.float64))[0]
        return values


def wide_model(features: int, leaves: int = 8) -> WideModel:
    random = np.random.default_rng(features)
    names = [f"x{at}" for at in range(features)]
    frame = pd.DataFrame(random.normal(size=(600, features)), columns=names).mul(4).round().div(4)
    frame["outcome"] = frame["x0"] * frame["x1"] + frame["x2"].abs() * (frame["x3"] > 0) + 3 * frame["x4"]
    frame["at"], frame["flight"] = pd.date_range(START, periods=600, freq="min"), "F"
    spec = small_spec("wide", "regression", features=[{"name": name, "type": "number"} for name in names])
    parameters = {"max_iter": 15, "max_leaf_nodes": leaves}
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"parameters": parameters})})
    plan = make_plan(spec, frame)
    pipeline = fit_pipeline(spec, frame, plan, find_classes(spec, frame["outcome"]))
    manifest = manifest_of(spec, frame, plan, (), 1, START, START)
    rows = raw_rows(manifest.features, frame)
    game = (manifest, compile_pipeline(pipeline, manifest.features), Background(tuple(rows[:25])))
    return WideModel(pipeline[-1], game, rows)


@pytest.mark.slow
class TestAgainstTreeExplainer:
    def test_few_features_are_exact(self):
        model = wide_model(6)
        for row in model.rows[-3:]:
            assert attribute(*model.game, row).contributions == pytest.approx(model.exact(row), abs=1e-6)

    def test_many_features_are_exact_where_no_more_than_two_work_together(self):
        model = wide_model(12, leaves=3)
        for row in model.rows[-3:]:
            assert attribute(*model.game, row).contributions == pytest.approx(model.exact(row), abs=1e-6)

    def test_many_features_that_work_together_come_close(self):
        model = wide_model(12)
        for row in model.rows[-3:]:
            found, exact = np.array(attribute(*model.game, row).contributions), model.exact(row)
            assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


@dataclass(frozen=True)
class Sums:
    """Weights times values, and the product of the first two; missing is 0. Not compiled, and no real model."""

    weights: tuple[float, ...]
    together: float
    features: tuple[str, ...] = field(default=("temp", "seats", "holiday", "carrier", "air port", "distance"))
    outputs: int = 1

    def score_rows(self, rows: Sequence[Sequence[Value]]) -> np.ndarray:
        values = np.array([[_number(value) for value in row] for row in rows])
        answers: np.ndarray = values @ np.array(self.weights) + self.together * values[:, 0] * values[:, 1]
        return answers[:, None]

    def warm_up(self) -> None:
        pass


class Divides(Sums):
    """One over that."""

    def score_rows(self, rows: Sequence[Sequence[Value]]) -> np.ndarray:
        with np.errstate(divide="ignore"):
            answers: np.ndarray = 1 / super().score_rows(rows)
        return answers


def _number(value: Value) -> float:
    if isinstance(value, str):
        return float(len(value))
    return 0.0 if value is None or value != value else float(value)


NUMBERS = st.none() | st.floats(-100, 100).map(lambda x: round(x, 3))
ROWS = st.tuples(
    NUMBERS, NUMBERS, st.none() | st.booleans(), *[st.none() | st.sampled_from(["", "a", "bb"])] * 2, NUMBERS
)


@pytest.mark.slow
class TestProperties:
    @settings(max_examples=25, deadline=None)
    @given(
        weights=st.lists(st.floats(-5, 5), min_size=6, max_size=6),
        together=st.floats(-1, 1),
        row=ROWS,
        others=st.lists(ROWS, min_size=1, max_size=5),
    )
    def test_each_feature_gets_what_it_adds(self, weights: list[float], together: float, row: Row, others: list[Row]):
        """In closed form: its weight times its distance from the mean, and half of what it adds beside the other of a pair."""
        manifest = small_model("delay", "regression").manifest
        found = attribute(manifest, Sums(tuple(weights), together), Background(tuple(others)), row)
        own, mean = np.array([_number(v) for v in row]), np.array([[_number(v) for v in one] for one in others])
        expected = (own - mean.mean(axis=0)) * weights
        for first, second in ((0, 1), (1, 0)):
            away = own[first] - mean[:, first]
            expected[first] += together * np.mean(away * (own[second] + mean[:, second]) / 2)
        assert found.contributions == pytest.approx(expected, abs=1e-6)
        assert found.base + sum(found.contributions) == pytest.approx(found.value, abs=1e-6)

    def test_values_that_are_close_are_not_taken_for_the_same(self):
        """The library compares with a tolerance: a tree that splits between two such values was explained by another answer."""
        manifest = small_model("delay", "regression").manifest
        row, other = (1000.0, 0.0, None, None, None, 0.0), (1000.001, 0.0, None, None, None, 0.0)
        found = attribute(manifest, Sums((1e3, 0, 0, 0, 0, 0), 0.0), Background((other,)), row)
        assert found.contributions[0] == pytest.approx(-1.0, abs=1e-6)


class TestWithoutTheLibrary:
    def test_a_row_like_all_of_the_background_has_nothing_to_add(self):
        manifest = small_model("delay", "regression").manifest
        row: Row = (1.0, None, True, "a", "b", 2.0)
        found = attribute(manifest, Sums((1, 2, 3, 4, 5, 6), 1.0), Background((row, row)), row)
        assert (found.base, set(found.contributions)) == (found.value, {0.0})

    @pytest.mark.slow
    def test_a_mixture_without_a_finite_answer(self):
        manifest = small_model("delay", "regression").manifest
        row: Row = (1.0, 0.0, None, None, None, 0.0)
        scorer = Divides((1, 0, 0, 0, 0, 0), 0.0)
        with pytest.raises(CannotExplain, match="values of its training"):
            attribute(manifest, scorer, Background(((0.0, *row[1:]),)), row)

    def test_a_row_without_a_finite_answer(self):
        manifest = small_model("delay", "regression").manifest
        row: Row = (0.0, 0.0, None, None, None, 0.0)
        with pytest.raises(CannotExplain, match="for this row"):
            attribute(manifest, Divides((1, 0, 0, 0, 0, 0), 0.0), Background((row,)), row)

    def test_without_the_library_the_remedy_is_told(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "shap", None)
        model = small_model()
        with pytest.raises(NotInstalled, match=r"mlops-assets\[explain\]"):
            explained(model, raw_rows(model.manifest.features, model.fresh.head(1))[0])


class TestBackground:
    def test_it_reads_back_as_written(self):
        background = Background(((1.5, None, True, "a"), (2.0, "b", False, None)))
        assert Background.from_json(background.to_json()) == background

    @pytest.mark.parametrize("data", [b"", b"{}", b'{"rows":[]}', b"\xff", b'{"rows":[[{}]]}', b'{"rows":[],"more":1}'])
    def test_damage_is_told_with_the_remedy(self, data: bytes):
        with pytest.raises(CannotExplain, match="train the model again"):
            Background.from_json(data)

    def test_features_are_taken_away_by_name(self):
        background = Background(((1.0, "a"), (2.0, "b")))
        assert background.without(frozenset({"x"}), ("x", "y")).rows == ((None, "a"), (None, "b"))
        assert msgspec.json.decode(background.to_json()) == {"rows": [[1.0, "a"], [2.0, "b"]]}
