"""Evidently's own report of a window against the reference rows, for those who want every statistic. An optional extra.

No verdict comes from here: those of `core/monitoring` are told by `report.py`.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from mlops_assets.core.live_traffic import FEATURE
from mlops_assets.core.records import SHADOW
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.live_traffic import read_window
from mlops_assets.operations.reference import kinds_of
from mlops_assets.operations.report import report_path
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.files import make_folder

REFERENCE = "validated_features"
_ANSWERED = 200


class EvidentlyMissing(RuntimeError):
    """The optional library is not installed."""


def write_evidently_report(spec: ModelSpec, stores: Stores, window: str) -> Path:
    """Write the summary and drift of all features of a window, as Evidently sees them, to one HTML file. Returns its path.

    Raises
    ------
    EvidentlyMissing
        When Evidently is not installed; tells how to install it.
    FileNotFoundError
        When the window or the reference has no table; tells what to materialise.
    ValueError
        When the window has no answered row.
    """
    if find_spec("evidently") is None:
        raise EvidentlyMissing(
            "the full report is made by Evidently, which is not installed: pip install 'mlops-assets[report]'"
        )
    os.environ.setdefault("DO_NOT_TRACK", "1")  # it would tell its makers that it is used
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    live = answered_features(spec, stores, window)
    if live.empty:
        raise ValueError(
            f"{spec.name}: no request of window {window} was answered, so that there is nothing to compare"
        )
    reference = _typed(spec, stores.lake.read_table(spec.name, REFERENCE))
    kinds = kinds_of(spec)
    # a column without any value can be neither tested nor drawn
    names = [name for name in kinds if live[name].notna().any() and reference[name].notna().any()]
    columns = DataDefinition(
        numerical_columns=[name for name in names if kinds[name] == "number"],
        categorical_columns=[name for name in names if kinds[name] == "category"],
    )
    now, then = (Dataset.from_pandas(frame[names], columns) for frame in (live, reference))
    made = Report([DataDriftPreset(), DataSummaryPreset()]).run(now, then)
    path = report_path(stores.home, spec.name, f"{window}.evidently")
    make_folder(path.parent)
    made.save_html(str(path))
    return path


def answered_features(spec: ModelSpec, stores: Stores, window: str) -> pd.DataFrame:
    """The features of a window's answered requests, those of shadows left out, by their own names."""
    table = read_window(spec, stores, window)
    answered = table[(table["status"] == _ANSWERED) & (table["role"] != SHADOW)]
    own = [column for column in answered.columns if column.startswith(FEATURE)]
    features = answered[own].rename(columns=lambda column: column.removeprefix(FEATURE))
    return _typed(spec, features.reindex(columns=list(spec.feature_names)))


def _typed(spec: ModelSpec, frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers as floats, what is no number as missing, and categories as text, so that both sides are of one type."""
    typed = {}
    for name, kind in kinds_of(spec).items():
        column = frame[name]
        typed[name] = (
            pd.to_numeric(column, errors="coerce").astype(float) if kind == "number" else column.astype(object)
        )
    return pd.DataFrame(typed)
