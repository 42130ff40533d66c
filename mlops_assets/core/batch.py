"""Scoring a table part by part: which rows can be scored and why the others cannot, and the answers as columns.

The rules of a row are those of `schema.py` for the features that the model takes; who answers is the release plan's to say.
Where the parts come from and go to is the business of `operations/batch.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from mlops_assets.core.contract import raw_rows
from mlops_assets.core.live_traffic import TIME
from mlops_assets.core.manifest import FeatureContract, Manifest
from mlops_assets.core.records import Role
from mlops_assets.core.schema import REASON, read_times, validate
from mlops_assets.core.scoring.domain import DomainIndex
from mlops_assets.core.scoring.scorer import CompiledScorer, Floats, Scorer, ScorerError
from mlops_assets.core.spec import FeatureSpec, ModelSpec

ROW = "row"
ID = "id"
ENTITY = "entity"
EVENT_TIME = "event_time"


@dataclass(frozen=True)
class Answerer:
    """Who answers a table, and how.

    Attributes
    ----------
    release
        The plan by which this version answers; None for a version that was asked for by its number.
    masked
        Features whose values are taken for missing.
    constant
        The outputs of every answer where the plan has fallen back; None where the model answers.
    """

    manifest: Manifest
    scorer: Scorer
    release: int | None
    masked: tuple[str, ...] = ()
    constant: tuple[float, ...] | None = None

    @property
    def role(self) -> Role | None:
        """As the service would say; None for a version that was asked for by its number."""
        if self.release is None:
            return None
        return "champion" if self.constant is None else "fallback"


@dataclass(frozen=True)
class Part:
    """A part of a table, answered.

    Attributes
    ----------
    answers
        One row per row that could be scored, as `answer_schema` says.
    quarantine
        The other rows with the columns that were looked at, as text, and `quarantine_reason`, as `quarantine_schema` says.
    """

    answers: pa.Table
    quarantine: pa.Table


class TableScorer:
    """Scores the parts of one table. The same rows give the same answers, in parts of whatever size.

    Parameters
    ----------
    columns
        Of the table: it must hold each feature that the model takes; `id`, the entity key and the event time where it has them.

    Raises
    ------
    ValueError
        When a feature has no column, or a column that is needed is there twice.
    """

    def __init__(self, spec: ModelSpec, answerer: Answerer, columns: Sequence[str]) -> None:
        manifest = answerer.manifest
        self._answerer = answerer
        self._features = tuple(feature.name for feature in manifest.features)
        self._spec = _as_served(spec, manifest)
        self._keys = {
            kind: column
            for kind, column in ((ID, ID), (ENTITY, manifest.entity_key), (EVENT_TIME, manifest.event_time))
            if column in columns and column not in self._features
        }
        self._domain = DomainIndex(manifest.features, manifest.imputation)
        _require_columns(self._features, self.needed, columns)

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns of the table that are looked at."""
        return (*self._keys.values(), *self._features)

    @property
    def answer_schema(self) -> pa.Schema:
        """Columns of the answers; `row` is the position in the table, from 0."""
        manifest = self._answerer.manifest
        label = _class_type(manifest) if manifest.classes else pa.float64()
        kinds = {ID: pa.string(), ENTITY: pa.string(), EVENT_TIME: TIME}
        return pa.schema(
            [
                (ROW, pa.int64()),
                *((kind, kinds[kind]) for kind in self._keys),
                ("prediction", label),
                *((name, pa.float64()) for name in _probability_names(manifest)),
                ("version", pa.int64()),
                ("release", pa.int64()),
                ("role", pa.string()),
                ("imputed", pa.string()),
                ("out_of_domain", pa.string()),
            ]
        )

    @property
    def quarantine_schema(self) -> pa.Schema:
        """Columns of the rows without an answer."""
        return pa.schema([(ROW, pa.int64()), *((name, pa.string()) for name in self.needed), (REASON, pa.string())])

    def score(self, frame: pd.DataFrame, first_row: int) -> Part:
        """Answer what can be answered.

        Parameters
        ----------
        frame
            The needed columns of consecutive rows; text that should be a number is read as one.
        first_row
            The position in the table of the first of them.
        """
        frame = frame.reset_index(drop=True)
        times, reasons = self._event_times(frame)
        valid, broken = _judge(self._spec, frame[list(self._features)])
        for row, reason in broken.items():
            reasons[row] = f"{reasons[row]}; {reason}" if row in reasons else reason
        valid = valid.drop(index=[row for row in reasons if row in valid.index])
        used = valid.assign(**dict.fromkeys(self._answerer.masked)) if self._answerer.masked else valid
        outputs, refused = self._outputs(used)
        reasons |= {int(used.index[position]): why for position, why in refused.items()}
        good = np.ones(len(used), dtype=bool)
        good[list(refused)] = False
        rows = used.index.to_numpy()[good]
        answers = self._answers(frame.loc[rows], used.loc[rows], times, outputs[good], first_row)
        return Part(answers, self._quarantine(frame, reasons, first_row))

    def _event_times(self, frame: pd.DataFrame) -> "tuple[pd.Series[pd.Timestamp] | None, dict[int, str]]":
        if EVENT_TIME not in self._keys:
            return None, {}
        column = self._keys[EVENT_TIME]
        times = read_times(frame[column])
        unreadable = frame.index[frame[column].notna() & times.isna()]
        return times, {int(row): f"{column}: expected a time with its zone" for row in unreadable}

    def _outputs(self, used: pd.DataFrame) -> tuple[Floats, dict[int, str]]:
        constant = self._answerer.constant
        if constant is not None:
            return np.tile(np.array(constant), (len(used), 1)), {}
        manifest = self._answerer.manifest
        outputs, refused = _score(self._answerer.scorer, manifest.features, used)
        finite = np.isfinite(outputs).all(axis=1)
        for position in np.flatnonzero(~finite).tolist():
            refused.setdefault(position, f"{manifest.model} version {manifest.version} gave no finite number")
        return outputs, refused

    def _answers(
        self,
        frame: pd.DataFrame,
        used: pd.DataFrame,
        times: "pd.Series[pd.Timestamp] | None",
        outputs: Floats,
        first_row: int,
    ) -> pa.Table:
        manifest, rows = self._answerer.manifest, len(used)
        imputed, outside = self._domain.flags_of_columns({name: used[name] for name in self._features})
        columns: dict[str, pa.Array] = {ROW: pa.array(used.index.to_numpy(dtype=np.int64) + first_row)}
        for kind, column in self._keys.items():
            if kind == EVENT_TIME:
                assert times is not None
                columns[kind] = pa.array(times.loc[used.index], TIME, from_pandas=True)
            else:
                columns[kind] = _as_text(frame[column])
        columns |= _predictions(manifest, outputs)
        columns["version"] = pa.array(np.full(rows, manifest.version, dtype=np.int64))
        columns["release"] = pa.array([self._answerer.release] * rows, pa.int64())
        columns["role"] = pa.array([self._answerer.role] * rows, pa.string())
        columns["imputed"] = pa.array(imputed, pa.string())
        columns["out_of_domain"] = pa.array(outside, pa.string())
        return pa.table(columns, schema=self.answer_schema)

    def _quarantine(self, frame: pd.DataFrame, reasons: Mapping[int, str], first_row: int) -> pa.Table:
        rows = sorted(reasons)
        bad = frame.loc[rows]
        columns = {ROW: pa.array(np.array(rows, dtype=np.int64) + first_row)}
        columns |= {name: _as_text(bad[name]) for name in self.needed}
        columns[REASON] = pa.array([reasons[row] for row in rows], pa.string())
        return pa.table(columns, schema=self.quarantine_schema)


def _require_columns(features: Sequence[str], needed: Sequence[str], columns: Sequence[str]) -> None:
    found = list(columns)
    if missing := [name for name in features if name not in found]:
        raise ValueError(
            f"columns are missing: {', '.join(map(repr, missing))}; found {', '.join(map(repr, found)) or 'none'}"
        )
    if twice := [name for name in needed if found.count(name) > 1]:
        raise ValueError(f"columns are there more than once: {', '.join(map(repr, twice))}; rename all but one")


def _as_served(spec: ModelSpec, manifest: Manifest) -> ModelSpec:
    """The declaration with the features that the model takes, which may be those of an earlier declaration."""
    closed = {feature.name for feature in spec.features if feature.domain == "closed"}
    features = tuple(
        FeatureSpec(
            name=one.name,
            type=one.type,
            unit=one.unit,
            minimum=one.minimum,
            maximum=one.maximum,
            categories=one.levels or None,
            nullable=one.nullable,
            domain="closed" if one.name in closed and _is_limited(one) else "open",
        )
        for one in manifest.features
    )
    return spec.model_copy(update={"features": features})


def _is_limited(one: FeatureContract) -> bool:
    return one.type == "boolean" or bool(one.levels) or one.minimum is not None or one.maximum is not None


def _judge(spec: ModelSpec, features: pd.DataFrame) -> tuple[pd.DataFrame, dict[int, str]]:
    """The rows that hold the contract, typed, by their position; and by position why the others do not.

    A column that nobody can read throughout a part breaks the rows that have a value there, and not the part: what is said of a
    row does not depend on its neighbours.
    """
    if not len(features):
        return features, {}
    whole = _whole_rows(spec, features)
    validation = validate(spec, whole)
    if not validation.structural:
        valid = validation.valid.set_index(spec.entity_key)[list(features.columns)]
        valid.index = valid.index.astype("int64")
        broken = zip(validation.quarantine[spec.entity_key], validation.quarantine[REASON], strict=True)
        return valid, {int(row): reason for row, reason in broken}
    unread = {
        column: rule
        for column, rule, rows in validation.failures[["column", "rule", "rows"]].itertuples(index=False)
        if rows == whole[column].notna().sum()
    }
    present = whole[list(unread)].notna()
    reasons: dict[int, str] = {}
    for row, *there in present[present.any(axis=1)].itertuples(name=None):
        broken_here = [name for name, is_there in zip(unread, there, strict=True) if is_there]
        reasons[row] = "; ".join(f"{name}: expected {unread[name]}" for name in broken_here)
    valid, others = _judge(spec, features.loc[~present.any(axis=1)])
    return valid, reasons | others


_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)


def _whole_rows(spec: ModelSpec, features: pd.DataFrame) -> pd.DataFrame:
    """The features with what else the contract asks of a training row; each row is its own entity, so that none is a repetition."""
    columns = {name: _numbers(features[name]) for name in spec.number_features}
    others: dict[str, Any] = {spec.entity_key: features.index.map(str), spec.event_time: _ANY_TIME}
    others[spec.label.column] = None
    if spec.label.observed_at is not None:
        others[spec.label.observed_at] = pd.Series(pd.NaT, features.index, dtype="datetime64[us, UTC]")
    return features.assign(**columns).assign(**others)


def _numbers(column: "pd.Series[float]") -> "pd.Series[float]":
    """Text that is a number as that number, to the last bit, which pandas' own reading is not."""
    if column.dtype != object:
        return column
    return column.map(_number)


def _number(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _score(scorer: Scorer, contract: tuple[FeatureContract, ...], used: pd.DataFrame) -> tuple[Floats, dict[int, str]]:
    """Outputs of n rows, shape (n, K), NaN where the model itself refuses a row, and by position why it does."""
    if not len(used):
        return np.empty((0, scorer.outputs)), {}
    try:
        if isinstance(scorer, CompiledScorer):
            return scorer.score_columns({name: used[name].to_numpy() for name in scorer.features}), {}
        return scorer.score_rows(raw_rows(contract, used)), {}
    except ScorerError as error:
        if len(used) == 1:
            return np.full((1, scorer.outputs), np.nan), {0: str(error)}
    middle = len(used) // 2
    first, refused = _score(scorer, contract, used.iloc[:middle])
    second, also = _score(scorer, contract, used.iloc[middle:])
    return np.concatenate([first, second]), refused | {middle + position: why for position, why in also.items()}


def _class_type(manifest: Manifest) -> pa.DataType:
    return pa.string() if any(isinstance(one, str) for one in manifest.classes) else pa.int64()


def _probability_names(manifest: Manifest) -> tuple[str, ...]:
    if manifest.task == "multiclass":
        return tuple(f"probability.{one}" for one in manifest.classes)
    return ("probability",) if manifest.task == "binary" else ()


def _predictions(manifest: Manifest, outputs: Floats) -> dict[str, pa.Array]:
    """Prediction and probabilities as the service gives them: of two classes, the probability of the last."""
    if manifest.task == "regression":
        return {"prediction": pa.array(outputs[:, 0])}
    chosen: NDArray[np.int64]
    if manifest.task == "binary":
        chosen, shown = (outputs[:, 1] >= manifest.threshold).astype(np.int64), outputs[:, 1:]
    else:
        chosen, shown = outputs.argmax(axis=1), outputs
    kind = _class_type(manifest)
    classes = [str(one) if kind == pa.string() else one for one in manifest.classes]
    probabilities = zip(_probability_names(manifest), shown.T, strict=True)
    return {
        "prediction": pa.array([classes[position] for position in chosen.tolist()], kind),
        **{name: pa.array(np.ascontiguousarray(values)) for name, values in probabilities},
    }


def _as_text(column: "pd.Series[Any]") -> pa.Array:
    if pd.api.types.infer_dtype(column, skipna=True) != "string":
        column = column.astype(object).map(str, na_action="ignore")
    return pa.array(column, pa.string(), from_pandas=True)
