"""How the frames that pass between assets are described in the UI: `dagster-pandas` types and column schemas from the declaration.

They describe; gating is the business of the checks.
"""

from dataclasses import dataclass
from typing import Any

import dagster as dg
import pandas as pd
from dagster_pandas import PandasColumn, create_dagster_pandas_dataframe_type

from mlops_assets.core.spec import FeatureSpec, ModelSpec


@dataclass(frozen=True)
class FrameTypes:
    """The Dagster types of one model's frames. A type name may exist once, so they are made once and shared by the assets."""

    raw: dg.DagsterType
    validated: dg.DagsterType
    quarantine: dg.DagsterType
    imputed: dg.DagsterType

    @classmethod
    def of(cls, spec: ModelSpec) -> "FrameTypes":
        reasons = [PandasColumn.string_column("quarantine_reason", non_nullable=True)]
        return cls(
            raw=_frame_type(spec, "RawData", "Rows as the source and the log hold them.", None),
            validated=_frame_type(
                spec, "ValidatedFeatures", "Rows that hold the declared contract.", _contract_columns(spec)
            ),
            quarantine=_frame_type(spec, "Quarantine", "Rows that break the declared contract, and why.", reasons),
            imputed=_frame_type(
                spec, "ImputedFeatures", "Features as the imputation plan fills them: none is missing.", None
            ),
        )


def _contract_columns(spec: ModelSpec) -> list[PandasColumn]:
    return [
        PandasColumn.string_column(spec.entity_key, non_nullable=True),
        PandasColumn.exists(spec.event_time, non_nullable=True),
        PandasColumn.exists(spec.label.column),
        *(_column(feature) for feature in spec.features),
    ]


def _frame_type(spec: ModelSpec, kind: str, description: str, columns: list[PandasColumn] | None) -> dg.DagsterType:
    name = "".join(word.capitalize() for word in spec.name.split("_")) + kind
    return create_dagster_pandas_dataframe_type(
        name=name, description=description, columns=columns, metadata_fn=summary_statistics
    )


def _column(feature: FeatureSpec) -> PandasColumn:
    non_nullable = not feature.nullable
    if feature.is_category:
        if feature.domain == "closed" and feature.categories is not None:
            known = {*feature.categories, None} if feature.nullable else set(feature.categories)
            return PandasColumn.categorical_column(
                feature.name, categories=known, non_nullable=non_nullable, ignore_missing_vals=feature.nullable
            )
        return PandasColumn.exists(feature.name, non_nullable=non_nullable)
    closed = feature.domain == "closed"
    return PandasColumn.numeric_column(
        feature.name,
        min_value=feature.minimum if closed and feature.minimum is not None else -float("inf"),
        max_value=feature.maximum if closed and feature.maximum is not None else float("inf"),
        non_nullable=non_nullable,
        ignore_missing_vals=feature.nullable,
    )


def summary_statistics(frame: pd.DataFrame) -> dict[str, Any]:
    """Rows, columns and the usual statistics of each column, as the UI shows them."""
    metadata: dict[str, Any] = {"rows": len(frame), "columns": len(frame.columns)}
    if len(frame) and len(frame.columns):
        table = frame.describe(include="all").transpose()
        keep = [name for name in ("count", "unique", "top", "mean", "std", "min", "50%", "max") if name in table]
        table.insert(0, "missing", frame.isna().mean())
        metadata["statistics"] = dg.MetadataValue.md(
            markdown_table(table[["missing", *keep]].reset_index(names="column"))
        )
    return metadata


def markdown_table(frame: pd.DataFrame, most: int = 60) -> str:
    """A frame as a Markdown table, numbers to four significant digits, at most `most` rows."""
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + " --- |" * len(frame.columns)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in frame.head(most).itertuples(index=False)]
    if len(frame) > most:
        lines.append(f"\n… and {len(frame) - most} more rows")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None or value is pd.NaT or (isinstance(value, float) and pd.isna(value)):
        return ""
    return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("|", "\\|")


def column_schema(frame: pd.DataFrame, spec: ModelSpec) -> dg.TableSchema:
    """The columns of a frame with what the declaration says of them."""
    declared = {feature.name: feature for feature in spec.features}
    columns = []
    for name in frame.columns:
        feature = declared.get(name)
        rules = [] if feature is None else _rules(feature)
        about = (
            ""
            if feature is None
            else " ".join(filter(None, [feature.description, feature.unit and f"[{feature.unit}]"]))
        )
        constraints = dg.TableColumnConstraints(nullable=feature is None or feature.nullable, other=rules)
        columns.append(
            dg.TableColumn(str(name), str(frame[name].dtype), description=about or None, constraints=constraints)
        )
    return dg.TableSchema(columns)


def _rules(feature: FeatureSpec) -> list[str]:
    rules = []
    if feature.minimum is not None:
        rules.append(f">= {feature.minimum:g}")
    if feature.maximum is not None:
        rules.append(f"<= {feature.maximum:g}")
    if feature.categories is not None:
        rules.append(f"{len(feature.categories)} levels")
    return [f"{rule} ({feature.domain} domain)" for rule in rules]


def records_table(frame: pd.DataFrame, most: int = 100) -> dg.TableMetadataValue:
    """A small frame as a table in the UI."""
    schema = dg.TableSchema([dg.TableColumn(str(name), "string") for name in frame.columns])
    records = [
        dg.TableRecord(dict(zip(frame.columns, map(_cell, row), strict=True)))
        for row in frame.head(most).itertuples(index=False)
    ]
    return dg.MetadataValue.table(records, schema)
