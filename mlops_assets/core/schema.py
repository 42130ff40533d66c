"""The declared contract as a pandera schema: which rows may enter the pipeline, and why the others may not.

Judges frames that are in memory; what to do about a broken frame is decided by the checks of `assets/validated_features.py`.
"""

import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pandera.errors
import pandera.pandas as pa

from mlops_assets.core.spec import FeatureSpec, ModelSpec

REASON = "quarantine_reason"
_ZONE = re.compile(r"[T ]\S*(Z|[+-]\d\d(:?\d\d)?)$")
_TRUE_FALSE = {"true": 1.0, "false": 0.0, "True": 1.0, "False": 0.0}


@dataclass(frozen=True)
class Validation:
    """A frame judged by its contract.

    Attributes
    ----------
    valid
        Rows that hold the contract, declared columns only, typed: numbers float64, categories and the entity key object (str or
        None), times datetime64[us, UTC], the label float64 for a regression and object otherwise.
    quarantine
        The other rows as received (values as text), with the column `quarantine_reason`.
    failures
        One row per broken rule and column: `column`, `rule`, `rows`, `example`.
    structural
        What is wrong with the frame as a whole: columns missing, there twice, or of the wrong type. Then `valid` is empty.
    out_of_domain
        Rows per feature outside an open domain: they are valid, and flagged.
    """

    valid: pd.DataFrame
    quarantine: pd.DataFrame
    failures: pd.DataFrame
    structural: tuple[str, ...]
    out_of_domain: dict[str, int]

    @property
    def rows(self) -> int:
        return len(self.valid) + len(self.quarantine)

    @property
    def quarantined_share(self) -> float:
        return len(self.quarantine) / self.rows if self.rows else 0.0


def pandera_schema(spec: ModelSpec) -> pa.DataFrameSchema:
    """The contract of a typed row: nullability everywhere, ranges and levels where the domain is closed."""
    columns = {feature.name: _feature_column(feature) for feature in spec.features}
    columns[spec.entity_key] = pa.Column(object, nullable=False, description="entity key")
    columns[spec.event_time] = pa.Column("datetime64[us, UTC]", nullable=False, description="event time")
    label_type = float if spec.task == "regression" else object
    label_checks = (
        []
        if spec.label.classes is None
        else [pa.Check.isin(list(spec.label.classes), error=f"one of {list(spec.label.classes)}")]
    )
    columns[spec.label.column] = pa.Column(label_type, label_checks, nullable=True, description="label")
    if spec.label.observed_at is not None:
        columns[spec.label.observed_at] = pa.Column(
            "datetime64[us, UTC]", nullable=True, description="when the label was known"
        )
    return pa.DataFrameSchema(columns, name=spec.name)


def _feature_column(feature: FeatureSpec) -> pa.Column:
    checks = []
    if feature.domain == "closed":
        if feature.categories is not None:
            checks.append(pa.Check.isin(list(feature.categories), error=f"one of {list(feature.categories)}"))
        if feature.minimum is not None:
            checks.append(pa.Check.ge(feature.minimum, error=f"at least {feature.minimum:g} {feature.unit}".strip()))
        if feature.maximum is not None:
            checks.append(pa.Check.le(feature.maximum, error=f"at most {feature.maximum:g} {feature.unit}".strip()))
    kind = object if feature.is_category else float
    return pa.Column(kind, checks, nullable=feature.nullable, description=feature.description)


def validate(spec: ModelSpec, frame: pd.DataFrame) -> Validation:
    """Split a frame into the rows that hold the contract and those that do not, with reasons.

    Of the rows of one entity and event time that hold it otherwise, the first is kept.

    Parameters
    ----------
    frame
        Rows as read from the source, one per event; columns that the contract does not name are ignored.
    """
    schema = pandera_schema(spec)
    frame = frame.reset_index(drop=True)
    counts = {name: int((frame.columns == name).sum()) for name in schema.columns}
    strange = [name for name, count in counts.items() if count != 1]
    structural = [
        f"column {name!r} is there {counts[name]} times"
        if counts[name]
        else f"column {name!r} is missing; found {', '.join(map(repr, frame.columns))}"
        for name in strange
    ]
    typed = {name: _coerce(spec, name, frame[name]) for name in schema.columns if name not in strange}
    structural += [problem for column in typed.values() if (problem := column.structural) is not None]
    if structural:
        empty = pd.DataFrame({name: pd.Series(dtype=str(column.dtype)) for name, column in schema.columns.items()})
        reasons = pd.Series("; ".join(structural), index=frame.index, dtype=object)
        failures = _failures(
            [(name, "the column, once", frame.index, None) for name in strange] + _coercion_cases(typed, frame)
        )
        return Validation(empty, _quarantine(frame, reasons), failures, tuple(structural), {})

    values = pd.DataFrame({name: column.values for name, column in typed.items()}, index=frame.index)
    cases = _coercion_cases(typed, frame) + _schema_cases(schema, values, typed, frame)
    cases += _duplicate_cases(spec, values.drop(index=_rows_of(cases)))
    bad = _rows_of(cases)
    valid = values.drop(index=bad)
    return Validation(
        valid.reset_index(drop=True),
        _quarantine(frame.loc[bad], _reasons(cases, bad)),
        _failures(cases),
        (),
        {
            feature.name: int(outside.sum())
            for feature in spec.features
            if (outside := _outside(feature, valid[feature.name])).any()
        },
    )


@dataclass(frozen=True)
class _Typed:
    values: pd.Series
    unreadable: pd.Series
    expected: str
    structural: str | None


def _coerce(spec: ModelSpec, name: str, column: pd.Series) -> _Typed:
    kind = _kind(spec, name)
    present = column.notna()
    match kind:
        case "time":
            values, expected = read_times(column), "a time with its zone"
        case "category":
            text = column.astype(object)
            if pd.api.types.infer_dtype(text, skipna=True) != "string":
                text = text.map(lambda value: value if isinstance(value, str) else None)
            values, expected = text.where(text.notna(), None), "text"
        case "class":
            values = _classes(spec, column)
            expected = "text, as the declared classes are" if _text_classes(spec) else "text or a whole number"
        case "boolean":
            values, expected = column.astype(object).map(_boolean).astype(float), "true or false"
        case _:
            values, expected = _numbers(column), "a finite number"
            if kind == "integer":
                values, expected = values.where(values == values.round()), "a whole number"
    unreadable = present & values.isna()
    structural = None
    if len(column) and present.any() and unreadable[present].all():
        example = column[present].iloc[0]
        structural = (
            f"column {name!r} is of the wrong type: expected {expected}, found {column.dtype} such as {example!r}"
        )
    return _Typed(values, unreadable, expected, structural)


def _kind(spec: ModelSpec, name: str) -> str:
    if name in (spec.event_time, spec.label.observed_at):
        return "time"
    if name == spec.entity_key:
        return "category"
    if name == spec.label.column:
        return "number" if spec.task == "regression" else "class"
    return spec.feature(name).type


def read_times(column: pd.Series) -> pd.Series:
    """Times with their zone as datetime64[us, UTC]; NaT where a value is no time or names no zone."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        times: pd.Series[Any] = column.dt.tz_convert("UTC")
        return times.astype("datetime64[us, UTC]")
    if pd.api.types.is_datetime64_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        return pd.Series(pd.NaT, index=column.index, dtype="datetime64[us, UTC]")
    zoned = column.astype(object).map(lambda value: value if _names_zone(value) else None)
    parsed: pd.Series[Any] = pd.to_datetime(zoned, errors="coerce", utc=True, format="ISO8601")
    return parsed.astype("datetime64[us, UTC]")


def _names_zone(value: object) -> bool:
    if isinstance(value, datetime):
        return value.tzinfo is not None
    return isinstance(value, str) and _ZONE.search(value) is not None


def _numbers(column: pd.Series) -> pd.Series:
    if column.dtype.kind in "mMc":  # a time is nanoseconds to pandas, and no number to anybody else
        return pd.Series(np.nan, index=column.index)
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    return numbers.where(np.isfinite(numbers))


def _boolean(value: object) -> float | None:
    if isinstance(value, str):
        return _TRUE_FALSE.get(value)
    return float(value) if isinstance(value, bool | int | float | np.bool_ | np.number) and value in (0, 1) else None


def _text_classes(spec: ModelSpec) -> bool:
    return spec.label.classes is not None and all(isinstance(value, str) for value in spec.label.classes)


def _classes(spec: ModelSpec, column: pd.Series) -> pd.Series:
    as_text = _text_classes(spec)
    declared = [value for value in spec.label.classes or () if isinstance(value, int)]
    whole_numbers = {text: value for value in declared for text in (str(value), f"{value}.0")}

    def read(value: object) -> str | int | None:
        if isinstance(value, str):
            return whole_numbers.get(value, value)
        if as_text:
            return None
        if isinstance(value, bool | np.bool_):
            return int(value)
        if isinstance(value, int | float | np.number):
            number = float(value)
            return int(number) if math.isfinite(number) and number == round(number) else None
        return None

    return pd.Series(
        [read(value) if present else None for value, present in zip(column, column.notna(), strict=True)],
        index=column.index,
        dtype=object,
    )


_Case = tuple[str, str, pd.Index, object]


def _coercion_cases(typed: dict[str, _Typed], frame: pd.DataFrame) -> list[_Case]:
    cases: list[_Case] = []
    for name, column in typed.items():
        rows = frame.index[column.unreadable]
        if len(rows):
            cases.append((name, column.expected, rows, frame.loc[rows[0], name]))
    return cases


def _schema_cases(
    schema: pa.DataFrameSchema, values: pd.DataFrame, typed: dict[str, _Typed], frame: pd.DataFrame
) -> list[_Case]:
    try:
        schema.validate(values, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        table = errors.failure_cases
        if table["index"].isna().any():
            raise AssertionError(f"typed frame of {schema.name!r} breaks its own schema: {table}") from errors
        cases = [
            _schema_case(str(column), str(rule), pd.Index(group["index"].astype("int64").unique()), typed, frame)
            for (column, rule), group in table.groupby(["column", "check"], sort=False)
        ]
        return [case for case in cases if len(case[2])]
    return []


def _schema_case(column: str, rule: str, rows: pd.Index, typed: dict[str, _Typed], frame: pd.DataFrame) -> _Case:
    if rule == "not_nullable":
        return column, "a value", rows.difference(frame.index[typed[column].unreadable]), None
    return column, rule, rows, frame.loc[rows[0], column]


def _duplicate_cases(spec: ModelSpec, values: pd.DataFrame) -> list[_Case]:
    """Rows after the first of their entity and event time; for rows without other faults, as a bad row displaces no good one."""
    rows = values.index[values.duplicated([spec.entity_key, spec.event_time])]
    if not len(rows):
        return []
    return [(spec.entity_key, "the only row of its entity and event time", rows, values.loc[rows[0], spec.entity_key])]


def _rows_of(cases: list[_Case]) -> "pd.Index[int]":
    rows: pd.Index[int] = pd.Index([], dtype="int64")
    for _, _, of_case, _ in cases:
        rows = rows.union(of_case)
    return rows


def _reasons(cases: list[_Case], bad: pd.Index) -> pd.Series:
    reasons: dict[int, list[str]] = {row: [] for row in bad}
    for column, rule, rows, _ in cases:
        for row in rows:
            reasons[row].append(f"{column}: expected {rule}")
    return pd.Series({row: "; ".join(texts) for row, texts in reasons.items()}, dtype=object)


def _failures(cases: list[_Case]) -> pd.DataFrame:
    rows = [(column, rule, len(rows), "" if example is None else str(example)) for column, rule, rows, example in cases]
    return pd.DataFrame(rows, columns=["column", "rule", "rows", "example"]).sort_values(
        "rows", ascending=False, ignore_index=True
    )


def _quarantine(rows: pd.DataFrame, reasons: pd.Series) -> pd.DataFrame:
    present = rows.notna()
    text = rows.astype(object).map(str).where(present, None)
    return text.assign(**{REASON: reasons}).reset_index(drop=True)


def _outside(feature: FeatureSpec, values: pd.Series) -> pd.Series:
    outside = pd.Series(False, index=values.index)
    if feature.categories is not None:
        outside |= values.notna() & ~values.isin(feature.categories)
    if feature.minimum is not None:
        outside |= values < feature.minimum
    if feature.maximum is not None:
        outside |= values > feature.maximum
    return outside
