"""What a replay puts into the lake: the rows that a service would have logged."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mlops_assets.core.live_traffic import FEATURE, LABEL, OUTPUT, TIME
from mlops_assets.core.metrics import Floats
from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.core.spec import ModelSpec

Places = np.ndarray[Any, np.dtype[np.intp]]


def prediction_table(
    spec: ModelSpec, rows: pd.DataFrame, ids: Sequence[str], seen: pd.DataFrame, output: Floats, plan: ReleasePlan
) -> pa.Table:
    """The answers to these rows under a plan.

    Parameters
    ----------
    seen
        The features as the model was given them, masked where the plan says so.
    output
        (rows, outputs).
    """
    missing, names = seen.isna().to_numpy(), np.array(spec.feature_names)
    times = pa.array(rows[spec.event_time]).cast(TIME)
    count = len(rows)
    columns: dict[str, Any] = {
        "id": list(ids),
        "entity": rows[spec.entity_key].astype(str).tolist(),
        "event_time": times,
        "served_at": times,
        "version": pa.array(np.full(count, plan.champion.version), pa.int64()),
        "bundle": [plan.champion.bundle] * count,
        "release": pa.array(np.full(count, plan.release), pa.int64()),
        "rollout": [plan.rollout] * count,
        "role": ["fallback" if plan.fallen_back else "champion"] * count,
        "status": pa.array(np.full(count, 200), pa.int64()),
        "error": [""] * count,
        "latency_ms": np.zeros(count),
        "imputed": [",".join(names[one]) for one in missing],
        "out_of_domain": [""] * count,
    }
    for feature in spec.features:
        kind = pa.string() if feature.is_category else pa.float64()
        columns[f"{FEATURE}{feature.name}"] = pa.array(rows[feature.name], kind, from_pandas=True)
    for k in range(output.shape[1]):
        columns[f"{OUTPUT}{k}"] = np.ascontiguousarray(output[:, k])
    return pa.table(columns)


def label_table(spec: ModelSpec, ids: Sequence[str], values: "pd.Series[Any]", observed: "pd.Series[Any]") -> pa.Table:
    """The labels of these requests, as they come in."""
    text = any(isinstance(one, str) for one in spec.label.classes or ())
    at = pa.array(observed).cast(TIME)
    nothing = pa.nulls(len(ids), pa.string())
    columns = {
        "id": pa.array(ids),
        "entity": nothing,
        "event_time": pa.nulls(len(ids), TIME),
        "name": pa.array([spec.label.column] * len(ids)),
        "number": pa.nulls(len(ids), pa.float64()) if text else pa.array(values.astype(float)),
        "text": pa.array(values.astype(str)) if text else nothing,
        "observed_at": at,
        "received_at": at,
        "revision": pa.array(np.zeros(len(ids), np.int64)),
    }
    return pa.table({name: columns[name] for name in LABEL.names}, schema=LABEL)
