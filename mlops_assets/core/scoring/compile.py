"""From a fitted pipeline to arrays: the one file of the core that knows scikit-learn's insides.

Encoders are not known by name but probed, level by level; estimators are known by exact type. What is not understood in
full is refused with the reason, never approximated; `parity.py` holds the result against scikit-learn afterwards.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

from mlops_assets.core.imputation import PlanImputer
from mlops_assets.core.manifest import FeatureContract, ImputationPlan
from mlops_assets.core.scoring.arrays import BITSET_CODES
from mlops_assets.core.scoring.compile_models import CompiledModel, compile_model
from mlops_assets.core.scoring.compile_models import Uncompilable as Uncompilable
from mlops_assets.core.scoring.scorer import CompiledScorer
from mlops_assets.core.scoring.scorer_files import CategoryLayout, Layout, make_parts

Floats = NDArray[np.float64]

_UNSEEN = ("\x00unseen", "zz never seen 0", "0", "Ω≠unseen", "", "nan", "None")
_PROBE_ROWS = 256


def compile_pipeline(pipeline: Pipeline, contract: tuple[FeatureContract, ...]) -> CompiledScorer:
    """Compile a pipeline of the shape that `training.build_pipeline` makes.

    Parameters
    ----------
    pipeline
        Fitted: `impute` (a `PlanImputer`), `encode` (a `ColumnTransformer`), `model`.
    contract
        All features of the model in order, with the known levels of its categories.

    Raises
    ------
    Uncompilable
        With the reason, when any part cannot be turned into arrays that answer as it does.
    """
    plan, encoder, model = _steps(pipeline)
    columns = _Columns.of(plan, encoder, contract)
    affine, number_places = _compile_numbers(columns, encoder)
    tables = _probe_categories(columns, encoder, contract)
    width = len(number_places) + sum(table.rows.shape[1] for table in tables)
    number_places, tables = _through_native_categories(model, number_places, tables, width)
    order = np.concatenate([number_places, *(table.places for table in tables)]).astype(np.int64)
    compiled = compile_model(model, order)
    donors, scales, neighbours = _compile_donors(plan, columns)
    layout = Layout(
        features=tuple(feature.name for feature in contract),
        numbers=columns.numbers,
        categories=tuple(table.layout for table in tables),
        outputs=compiled.outputs,
        link=compiled.link,
        scale=compiled.scale,
        single=compiled.single,
        accepts_missing=compiled.accepts_missing,
        accepts_infinite=compiled.accepts_infinite,
        neighbours=neighbours,
        by_neighbours=tuple(name for name in plan.knn if name in columns.numbers),
        shapes={},
    )
    fills = [np.nan if plan[name].value is None else plan[name].value for name in columns.numbers]
    arrays = {
        "fills": np.array(fills, dtype=np.float64),
        "affine": affine,
        **_flatten(tables),
        **_model_arrays(compiled),
        "donors": donors,
        "donor_scales": scales,
    }
    return CompiledScorer(make_parts(layout, arrays))


def _steps(pipeline: Pipeline) -> tuple[ImputationPlan, ColumnTransformer, Any]:
    names = [name for name, _ in pipeline.steps]
    if names != ["impute", "encode", "model"]:
        raise Uncompilable(f"the pipeline has the steps {names}, not impute, encode, model")
    imputer, encoder, model = (step for _, step in pipeline.steps)
    if type(imputer) is not PlanImputer:
        raise Uncompilable(f"missing values are filled by a {type(imputer).__name__}, not by the imputation plan")
    if type(encoder) is not ColumnTransformer:
        raise Uncompilable(f"features are encoded by a {type(encoder).__name__}, not by a ColumnTransformer")
    return imputer.plan, encoder, model


@dataclass(frozen=True)
class _Columns:
    """The inputs that the encoder sees, and the encoder's own order of them."""

    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    fills: dict[str, str]

    @classmethod
    def of(cls, plan: ImputationPlan, encoder: ColumnTransformer, contract: tuple[FeatureContract, ...]) -> "_Columns":
        kinds = {feature.name: feature.type for feature in contract}
        if {feature.name for feature in plan.features} != set(kinds):
            raise Uncompilable("the imputation plan and the contract name different features")
        inputs: dict[str, tuple[str, ...]] = {"numbers": (), "categories": ()}
        for name, transformer, columns in encoder.transformers_:
            if name in inputs:
                inputs[name] = tuple(columns)
            elif len(columns) and not (isinstance(transformer, str) and transformer == "drop"):
                raise Uncompilable(f"the encoder has a part {name!r} beside numbers and categories")
        for name, columns in inputs.items():
            wrong = [column for column in columns if (kinds[column] == "category") != (name == "categories")]
            if wrong:
                raise Uncompilable(f"{', '.join(wrong)} are encoded as {name}, which the contract says they are not")
        fills = {name: str(plan[name].value) for name in inputs["categories"]}
        return cls(inputs["numbers"], inputs["categories"], fills)

    def frame(self, numbers: Floats, levels: NDArray[np.object_]) -> pd.DataFrame:
        """What the encoder would receive: numbers (n, P) and levels (n, C)."""
        filled: dict[str, Any] = {name: numbers[:, at] for at, name in enumerate(self.numbers)}
        return pd.DataFrame({**filled, **{name: levels[:, at] for at, name in enumerate(self.categories)}})


def _encode(encoder: ColumnTransformer, frame: pd.DataFrame) -> Floats:
    encoded = encoder.transform(frame)
    values = np.asarray(encoded.toarray() if hasattr(encoded, "toarray") else encoded)
    if values.dtype.kind not in "fiub":
        raise Uncompilable(f"the encoder gives values of type {values.dtype}, not numbers")
    return values.astype(np.float64)


# Numbers


def _compile_numbers(columns: _Columns, encoder: ColumnTransformer) -> tuple[Floats, NDArray[np.int64]]:
    """Affine steps (P, 6) of each number, and the encoded column of each."""
    count = len(columns.numbers)
    affine = np.tile(np.array([0.0, 1.0, 1.0, 0.0, -np.inf, np.inf]), (count, 1))
    if count == 0:
        return affine, np.empty(0, dtype=np.int64)
    transformer = encoder.named_transformers_["numbers"]
    places = np.arange(encoder.output_indices_["numbers"].start, encoder.output_indices_["numbers"].stop)
    if len(places) != count:
        raise Uncompilable(f"{type(transformer).__name__} makes {len(places)} columns of {count} numbers")
    if isinstance(transformer, str) or _is_identity(transformer):
        return affine, places
    if type(transformer) not in _AFFINE:
        raise Uncompilable(f"numbers go through a {type(transformer).__name__}, which is not affine in each column")
    for step, values in _AFFINE[type(transformer)](transformer):
        if values is not None:
            affine[:, step] = values
    return affine, places


def _is_identity(transformer: Any) -> bool:
    return type(transformer).__name__ == "FunctionTransformer" and transformer.func is None


_OFFSET, _DIVISOR, _FACTOR, _ADDEND, _LOWER, _UPPER = range(6)
_Steps = Iterator[tuple[int, Any]]


def _standard(scaler: Any) -> _Steps:
    yield _OFFSET, scaler.mean_ if scaler.with_mean else None
    yield _DIVISOR, scaler.scale_ if scaler.with_std else None


def _min_max(scaler: Any) -> _Steps:
    yield _FACTOR, scaler.scale_
    yield _ADDEND, scaler.min_
    if scaler.clip:
        yield _LOWER, scaler.feature_range[0]
        yield _UPPER, scaler.feature_range[1]


def _robust(scaler: Any) -> _Steps:
    yield _OFFSET, scaler.center_ if scaler.with_centering else None
    yield _DIVISOR, scaler.scale_ if scaler.with_scaling else None


def _max_abs(scaler: Any) -> _Steps:
    yield _DIVISOR, scaler.scale_
    if getattr(scaler, "clip", False):
        yield _LOWER, -1.0
        yield _UPPER, 1.0


_AFFINE: dict[type, Callable[[Any], _Steps]] = {
    StandardScaler: _standard,
    MinMaxScaler: _min_max,
    RobustScaler: _robust,
    MaxAbsScaler: _max_abs,
}


# Categories


@dataclass(frozen=True)
class _Table:
    """What one category's levels are encoded to: rows (levels + 1, w), in the encoded columns `places` (w,)."""

    layout: CategoryLayout
    rows: Floats
    places: NDArray[np.int64]


def _probe_categories(
    columns: _Columns, encoder: ColumnTransformer, contract: tuple[FeatureContract, ...]
) -> list[_Table]:
    if not columns.categories:
        return []
    probe = _Probe(columns, encoder, {feature.name: feature.levels or () for feature in contract})
    tables = [probe.table(position) for position in range(len(columns.categories))]
    owners = np.zeros(len(probe.base), dtype=np.int64)
    for table in tables:
        owners[table.places] += 1
    if (owners > 1).any():
        raise Uncompilable("an encoded column depends on more than one category")
    constant = np.setdiff1d(probe.own, np.flatnonzero(owners))
    tables[0] = _with_constants(tables[0], constant, probe.base[constant])
    probe.verify(tables)
    return tables


def _with_constants(table: _Table, places: NDArray[np.int64], values: Floats) -> _Table:
    rows = np.hstack([table.rows, np.tile(values, (len(table.rows), 1))])
    layout = CategoryLayout(
        table.layout.name, table.layout.levels, table.layout.missing, table.layout.refuse_unseen, rows.shape[1]
    )
    return _Table(layout, rows, np.concatenate([table.places, places]))


class _Probe:
    """Asks a fitted encoder what it makes of each level of each category, one category at a time."""

    def __init__(self, columns: _Columns, encoder: ColumnTransformer, levels: dict[str, tuple[str, ...]]) -> None:
        self._columns = columns
        self._encoder = encoder
        stored = _stored_levels(encoder.named_transformers_["categories"], len(columns.categories))
        self._candidates = [
            tuple(dict.fromkeys([*stored[at], *levels[name], columns.fills[name]]))
            for at, name in enumerate(columns.categories)
        ]
        place = encoder.output_indices_["categories"]
        self.own = np.arange(place.start, place.stop)
        self._base_row = self._find_base_row()
        self.base = self._ask([self._base_row])[0]

    def table(self, position: int) -> _Table:
        name = self._columns.categories[position]
        answers = dict(
            zip(self._candidates[position], self._ask_levels(position, self._candidates[position]), strict=True)
        )
        unseen = self._ask_unseen(position)
        known = {level: row for level, row in answers.items() if row is not None and not _same(row, unseen)}
        rows = np.array([*known.values(), self.base if unseen is None else unseen])
        places = self.own[[not _same_all(rows[:, at], np.full(len(rows), self.base[at])) for at in self.own]]
        fill = self._columns.fills[name]
        missing = list(known).index(fill) if fill in known else len(known)
        layout = CategoryLayout(name, tuple(known), missing, unseen is None, len(places))
        return _Table(layout, rows[:, places], places)

    def verify(self, tables: list[_Table]) -> None:
        """Compare tables put together with the encoder itself on random rows."""
        generator = np.random.default_rng(0)
        levels = np.empty((_PROBE_ROWS, len(tables)), dtype=object)
        expected = np.tile(self.base, (_PROBE_ROWS, 1))
        for position, table in enumerate(tables):
            known = [*table.layout.levels, *([] if table.layout.refuse_unseen else [_UNSEEN[0]])]
            codes = generator.integers(0, len(known), _PROBE_ROWS)
            levels[:, position] = np.array(known, dtype=object)[codes]
            expected[:, table.places] = table.rows[codes]
        if not _same_all(self._ask(list(levels))[:, self.own], expected[:, self.own]):
            raise Uncompilable("the encoder does not treat each category by itself")

    def _ask(self, rows: list[Any]) -> Floats:
        levels = np.empty((len(rows), len(self._columns.categories)), dtype=object)
        for at, row in enumerate(rows):
            levels[at] = row
        return _encode(self._encoder, self._columns.frame(np.zeros((len(rows), len(self._columns.numbers))), levels))

    def _ask_levels(self, position: int, levels: Sequence[str]) -> list[Floats | None]:
        """The encoded base row with each of some levels put into it; None where the encoder refuses the level."""
        rows = [[*self._base_row[:position], level, *self._base_row[position + 1 :]] for level in levels]
        try:
            return list(self._ask(rows))
        except (ValueError, KeyError):
            if len(levels) <= 1:
                return [None] * len(levels)
        middle = len(levels) // 2
        return self._ask_levels(position, levels[:middle]) + self._ask_levels(position, levels[middle:])

    def _ask_unseen(self, position: int) -> Floats | None:
        unseen = [text for text in _UNSEEN if text not in self._candidates[position]]
        answers = self._ask_levels(position, unseen)
        if not all(_same(answer, answers[0]) for answer in answers):
            raise Uncompilable(
                f"levels of {self._columns.categories[position]!r} never seen in training are not encoded alike"
            )
        return answers[0]

    def _find_base_row(self) -> list[str]:
        row: list[str] = [candidates[0] for candidates in self._candidates]
        try:
            self._ask([row])
        except (ValueError, KeyError) as error:
            raise Uncompilable(f"the encoder refuses the levels it was fitted on: {error}") from error
        return row


def _stored_levels(encoder: Any, columns: int) -> list[list[str]]:
    """The levels that a fitted encoder may know, for each of its columns; `categories_` is scikit-learn's own convention."""
    categories = getattr(encoder, "categories_", None)
    if categories is not None and len(categories) == columns:
        return [[level for level in levels if isinstance(level, str)] for levels in categories]
    return [_stored_texts(encoder)] * columns


def _stored_texts(state: object, depth: int = 6) -> list[str]:
    """All texts in the state of a fitted encoder: the levels it knows are among them."""
    if isinstance(state, str):
        return [state]
    if depth == 0 or isinstance(state, int | float | type) or state is None:
        return []
    found: list[str] = []
    parts: Any = ()
    if isinstance(state, np.ndarray):
        parts = state.tolist() if state.dtype.kind in "OU" else ()
    elif isinstance(state, pd.Series | pd.DataFrame | pd.Index):
        parts = [state.to_numpy(), *([] if isinstance(state, pd.Index) else [state.index.to_numpy()])]
    elif isinstance(state, dict):
        parts = [*state.keys(), *state.values()]
    elif isinstance(state, list | tuple | set | frozenset):
        parts = state
    elif hasattr(state, "__dict__"):
        parts = list(vars(state).values())
    for part in parts:
        found += _stored_texts(part, depth - 1)
    return list(dict.fromkeys(found))


def _same(first: Floats | None, second: Floats | None) -> bool:
    if first is None or second is None:
        return first is second
    return _same_all(first, second)


def _same_all(first: Any, second: Any) -> bool:
    return bool(np.array_equal(first, second, equal_nan=True))


def _through_native_categories(
    model: Any, number_places: NDArray[np.int64], tables: list[_Table], width: int
) -> tuple[NDArray[np.int64], list[_Table]]:
    """Fold the encoder that a HistGradientBoosting estimator with native categories carries inside into the tables."""
    categorical = getattr(model, "is_categorical_", None)
    if categorical is None:
        return number_places, tables
    if categorical[number_places].any():
        raise Uncompilable("a number is declared as a category of the HistGradientBoosting estimator")
    moved = np.empty(width, dtype=np.int64)
    moved[np.concatenate([np.flatnonzero(categorical), np.flatnonzero(~categorical)])] = np.arange(width)
    folded = []
    for table in tables:
        rows = table.rows.copy()
        for column in np.flatnonzero(categorical[table.places]):
            place = table.places[column]
            encoded = np.zeros((len(rows), width))
            encoded[:, place] = rows[:, column]
            rows[:, column] = model._preprocess_X(encoded, reset=False)[:, moved[place]]
            codes = rows[~np.isnan(rows[:, column]), column]
            if ((codes < 0) | (codes >= BITSET_CODES) | (codes != np.floor(codes))).any():
                raise Uncompilable(f"category {table.layout.name!r} has codes that a bitset cannot hold")
        folded.append(_Table(table.layout, rows, moved[table.places]))
    return moved[number_places], folded


def _flatten(tables: list[_Table]) -> dict[str, NDArray[Any]]:
    sizes = [table.rows.size for table in tables]
    return {
        "tables": np.concatenate([np.empty(0), *(table.rows.ravel() for table in tables)]),
        "table_starts": np.array([0, *np.cumsum(sizes)[:-1]] if tables else [], dtype=np.int64),
        "table_widths": np.array([table.rows.shape[1] for table in tables], dtype=np.int64),
    }


def _model_arrays(compiled: CompiledModel) -> dict[str, NDArray[Any]]:
    return {
        "nodes": compiled.trees.nodes,
        "roots": compiled.trees.roots,
        "tree_outputs": compiled.trees.outputs,
        "leaves": compiled.trees.leaves,
        "bits": compiled.trees.bits,
        "base": compiled.base,
        "coefficients": compiled.coefficients,
    }


def _compile_donors(plan: ImputationPlan, columns: _Columns) -> tuple[Floats, Floats, int]:
    if not plan.knn:
        return np.empty((0, len(columns.numbers))), np.ones(len(columns.numbers)), 1
    if plan.donor_columns != columns.numbers:
        raise Uncompilable("the donors' columns are not the numbers of the model, in order")
    donors = np.array(plan.donors, dtype=np.float64).reshape(len(plan.donors), len(plan.donor_columns))
    return donors, np.array(plan.donor_scales), plan.neighbours
