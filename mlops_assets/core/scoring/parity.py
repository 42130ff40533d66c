"""The proof that a compiled model answers as scikit-learn does: on ordinary rows, and on rows made to be hard."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from mlops_assets.core.manifest import FeatureContract, ImputationPlan
from mlops_assets.core.scoring.compile import Uncompilable, compile_pipeline
from mlops_assets.core.scoring.scorer import TOLERANCE, CompiledScorer, differences
from mlops_assets.core.training import predict

Floats = NDArray[np.float64]

_THRESHOLDS_PER_FEATURE = 60
_RANDOM_ROWS = 1000
_EXTREMES = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, -1e-300, 1e-35, 3.4028235e38, 3.5e38, 1e300, -1e300, 1e308, -1e308)
_STRANGE_LEVELS = (None, np.nan, "", " ", "never seen", "nan", "None", "0", "missing", "é\u0000", "x" * 1000)


@dataclass(frozen=True)
class ParityReport:
    """How far a scorer is from its pipeline.

    Attributes
    ----------
    rows, hard_rows
        Rows compared, ordinary and hard.
    max_abs_difference
        Largest difference of an answer, relative where scikit-learn's answer is above 1.
    mismatches
        Rows that differ by more than the tolerance, that only one side refuses, or where only one answer is NaN.
    """

    rows: int
    hard_rows: int
    max_abs_difference: float
    mismatches: int
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        return self.mismatches == 0

    def __str__(self) -> str:
        return (
            f"{self.mismatches} of {self.rows} rows and {self.hard_rows} hard rows differ by more than {self.tolerance:g}; "
            f"largest difference {self.max_abs_difference:.3g}"
        )


def check_parity(pipeline: Pipeline, scorer: CompiledScorer, frame: pd.DataFrame, hard: pd.DataFrame) -> ParityReport:
    """Compare a scorer with its pipeline, both by block and, for the hard rows, one row at a time.

    Parameters
    ----------
    frame
        Ordinary rows with the raw features, such as the held-out ones.
    hard
        From `hard_rows`.
    """
    features = list(scorer.features)
    largest = 0.0
    mismatches = 0
    for rows, is_hard in ((frame[features], False), (hard[features], True)):
        expected = _answers(lambda part: predict(pipeline, part), rows, scorer.outputs)
        answers = _answers(scorer.score_columns, rows, scorer.outputs)
        apart = _compare(answers, expected)
        if is_hard and len(rows):
            singly = _Answers.stack(
                [_answers(_by_row(scorer), rows.iloc[[at]], scorer.outputs) for at in range(len(rows))]
            )
            apart = np.maximum(apart, _compare(singly, expected))
        mismatches += int((~(apart <= TOLERANCE)).sum())
        largest = max(largest, float(apart.max(initial=0.0)))
    return ParityReport(len(frame), len(hard), largest, mismatches)


@dataclass(frozen=True)
class _Answers:
    """Answers (n, K), and which rows were refused (n,)."""

    values: Floats
    refused: NDArray[np.bool_]

    @classmethod
    def stack(cls, parts: list["_Answers"]) -> "_Answers":
        return cls(np.concatenate([part.values for part in parts]), np.concatenate([part.refused for part in parts]))


def _answers(score: Callable[[Any], Floats], rows: pd.DataFrame, outputs: int) -> _Answers:
    """Score a block; where it raises, halve it until each row that is refused stands alone."""
    if len(rows) == 0:
        return _Answers(np.empty((0, outputs)), np.empty(0, dtype=np.bool_))
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return _Answers(score(rows), np.zeros(len(rows), dtype=np.bool_))
    except ValueError:
        if len(rows) == 1:
            return _Answers(np.full((1, outputs), np.nan), np.ones(1, dtype=np.bool_))
    middle = len(rows) // 2
    return _Answers.stack([_answers(score, rows.iloc[:middle], outputs), _answers(score, rows.iloc[middle:], outputs)])


def _compare(answers: _Answers, expected: _Answers) -> Floats:
    """The largest difference of each row, infinite where only one side refuses it."""
    apart: Floats = differences(answers.values, expected.values).max(axis=1)
    return np.where(answers.refused == expected.refused, apart, np.inf)


def _by_row(scorer: CompiledScorer) -> Callable[[pd.DataFrame], Floats]:
    def score(row: pd.DataFrame) -> Floats:
        values = [None if value is None or value != value else value for value in row.iloc[0].tolist()]
        return np.array([scorer.score_row(values)])

    return score


def hard_rows(contract: tuple[FeatureContract, ...], pipeline: Pipeline, seed: int = 0) -> pd.DataFrame:
    """Rows that a wrong compilation would get wrong.

    Every level; unknown, empty and odd texts; each feature missing, and all at once; numbers at the thresholds of the trees
    and one ulp beside them, also where float32 rounds; extremes; random mixtures of all these.

    Returns
    -------
    DataFrame
        The raw features in the order of the contract: numbers float64, categories objects.
    """
    generator = np.random.default_rng(seed)
    choices = _choices(contract, pipeline, generator)
    rows = [
        {name: values[generator.integers(len(values))] for name, values in choices.ordinary.items()} for _ in range(8)
    ]
    rows.append(dict.fromkeys(choices.ordinary))
    for name, values in choices.hard.items():
        for value in values:
            rows.append({**rows[generator.integers(8)], name: value})
        rows.append({**dict.fromkeys(choices.ordinary), name: values[0]})
    odd = choices.odd
    for _ in range(_RANDOM_ROWS):
        mixed = {name: values[generator.integers(len(values))] for name, values in choices.ordinary.items()}
        for name in generator.choice(list(mixed), generator.integers(0, 4)):
            mixed[name] = odd[name][generator.integers(len(odd[name]))]
        rows.append(mixed)
    return pd.DataFrame({feature.name: _series(feature, rows) for feature in contract})


def _series(feature: FeatureContract, rows: list[dict[str, Any]]) -> pd.Series:
    values = [row[feature.name] for row in rows]
    return pd.Series(values, dtype=object if feature.type == "category" else np.float64)


@dataclass(frozen=True)
class _Choices:
    """Values to choose from, by feature: such as training has, and such as it has not."""

    ordinary: dict[str, list[Any]]
    hard: dict[str, list[Any]]

    @property
    def odd(self) -> dict[str, list[Any]]:
        """The hard values that fit float32, so that most mixtures are answered and not refused."""
        return {name: [value for value in values if not _overflows(value)] for name, values in self.hard.items()}


def _overflows(value: Any) -> bool:
    return isinstance(value, float) and abs(value) > float(np.finfo(np.float32).max)


def _choices(contract: tuple[FeatureContract, ...], pipeline: Pipeline, generator: np.random.Generator) -> _Choices:
    plan: ImputationPlan = pipeline.named_steps["impute"].plan
    thresholds = _thresholds(contract, pipeline)
    ordinary: dict[str, list[Any]] = {}
    hard: dict[str, list[Any]] = {}
    for feature in contract:
        if feature.type == "category":
            ordinary[feature.name] = list(feature.levels or ("",))
            hard[feature.name] = [*_STRANGE_LEVELS, *(feature.levels or ())]
            continue
        bounds = [bound for bound in (feature.minimum, feature.maximum) if bound is not None]
        known = [float(value) for value in (plan[feature.name].value, *bounds) if isinstance(value, float)]
        known += _donor_values(plan, feature.name)
        splits = thresholds.get(feature.name, np.empty(0))
        if len(splits) > _THRESHOLDS_PER_FEATURE:
            splits = generator.choice(splits, _THRESHOLDS_PER_FEATURE, replace=False)
        ordinary[feature.name] = [*known, *splits.tolist(), *generator.normal(0, 10, 20).tolist()]
        hard[feature.name] = [np.nan, *_EXTREMES, *_beside(splits), *known]
    return _Choices(ordinary, hard)


def _donor_values(plan: ImputationPlan, name: str) -> list[float]:
    if name not in plan.donor_columns:
        return []
    column = plan.donor_columns.index(name)
    return [row[column] for row in plan.donors[:50] if row[column] is not None]  # type: ignore[misc]


def _beside(splits: Floats) -> list[float]:
    """Each value, its neighbours in float64 and in float32, and the middle between two float32 with its neighbours."""
    single = splits.astype(np.float32)
    above = np.nextafter(single, np.float32(np.inf)).astype(np.float64)
    middle = (single.astype(np.float64) + above) / 2
    exact = [splits, single.astype(np.float64), above, middle]
    sides = [np.nextafter(values, side) for values in (splits, middle) for side in (-np.inf, np.inf)]
    return [float(value) for values in (*exact, *sides) for value in values]


def _thresholds(contract: tuple[FeatureContract, ...], pipeline: Pipeline) -> dict[str, Floats]:
    """Where the trees split each number, in its own unit; nothing for a pipeline that has no trees or is not compiled."""
    try:
        parts = compile_pipeline(pipeline, contract).parts
    except Uncompilable:
        return {}
    splits = parts.arrays.nodes[(parts.arrays.nodes["left"] != 0) & (parts.arrays.nodes["bits"] < 0)]
    found = {}
    for column, name in enumerate(parts.layout.numbers):
        offset, divisor, factor, addend = parts.arrays.affine[column, :4]
        values = np.unique(splits["threshold"][splits["feature"] == column])
        values = values[np.isfinite(values)]
        found[name] = (values - addend) / factor * divisor + offset if factor else values
    return found
