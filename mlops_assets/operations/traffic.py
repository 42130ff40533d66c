"""Sending a model's real past to its service as if it happened now: requests in event-time order, then the labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from mlops_assets.core.evaluation import Judged, baseline_output, point_metrics
from mlops_assets.core.metrics import Floats
from mlops_assets.core.schema import validate
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import encode_label, predict
from mlops_assets.operations.client import PredictionClient
from mlops_assets.operations.smoke import outputs_of
from mlops_assets.operations.stores import Stores
from mlops_assets.sources.table import read_source

LABELS_PER_REQUEST = 1_000


@dataclass(frozen=True)
class Traffic:
    """What was sent and what came back.

    `outputs` has shape (n, K) or (n, 1), in the order of `rows`; latencies are wall clock at the client, in milliseconds.
    """

    rows: pd.DataFrame
    outputs: Floats
    prediction_ids: tuple[str, ...]
    labels: int
    imputed: int
    out_of_domain: int
    single_ms: Floats
    batch_ms: Floats


@dataclass(frozen=True)
class Quality:
    """How good the answers were against the labels, beside the trivial model, and how far from the registered pipeline."""

    labelled: int
    metrics: dict[str, float]
    trivial: dict[str, float]
    max_difference: float


def live_rows(spec: ModelSpec, start: datetime, end: datetime) -> pd.DataFrame:
    """The rows of the source in `[start, end)` that hold the contract, in event-time order, with their labels."""
    frame = read_source(spec.source)
    times = frame[spec.event_time]
    return validate(spec, frame[(times >= start) & (times < end)]).valid


def send(spec: ModelSpec, client: PredictionClient, rows: pd.DataFrame, every: timedelta, singles: int) -> Traffic:
    """Ask for every row, one request per `every` of event time, the first `singles` one by one; then post the labels."""
    outputs: list[list[float]] = []
    ids: list[str] = []
    imputed = out_of_domain = 0
    single_ms: list[float] = []
    batch_ms: list[float] = []
    requests = _requests(spec, rows)
    for batch in _batches(requests, rows[spec.event_time], every, singles):
        answers = client.predict_many(spec.name, batch) if len(batch) > 1 else [client.predict(spec.name, batch[0])]
        (batch_ms if len(batch) > 1 else single_ms).append(client.latencies_ms[-1])
        for answer in answers:
            outputs.append(outputs_of(answer))
            ids.append(answer["prediction_id"])
            imputed += bool(answer["imputed"])
            out_of_domain += bool(answer["out_of_domain"])
    labels = _send_labels(spec, client, rows, ids)
    return Traffic(
        rows, np.array(outputs), tuple(ids), labels, imputed, out_of_domain, np.array(single_ms), np.array(batch_ms)
    )


def _requests(spec: ModelSpec, rows: pd.DataFrame) -> list[dict[str, Any]]:
    columns = {name: _json_values(spec, rows, name) for name in spec.feature_names}
    entities, times = rows[spec.entity_key].tolist(), rows[spec.event_time]
    return [
        {
            "entity": entities[position],
            "event_time": times.iloc[position].isoformat(),
            "features": {name: values[position] for name, values in columns.items()},
        }
        for position in range(len(rows))
    ]


def _json_values(spec: ModelSpec, rows: pd.DataFrame, name: str) -> list[Any]:
    present = rows[name].notna()
    if spec.feature(name).type == "boolean":
        return [bool(value) if there else None for value, there in zip(rows[name], present, strict=True)]
    return [value if there else None for value, there in zip(rows[name].tolist(), present, strict=True)]


def _batches(
    requests: list[dict[str, Any]], times: "pd.Series[pd.Timestamp]", every: timedelta, singles: int
) -> Iterator[list[dict[str, Any]]]:
    for request in requests[:singles]:
        yield [request]
    slots = times.iloc[singles:].dt.floor(every)
    for _, slot in slots.groupby(slots, sort=True):
        yield [requests[position] for position in slot.index]


def _send_labels(spec: ModelSpec, client: PredictionClient, rows: pd.DataFrame, ids: list[str]) -> int:
    observed = rows[spec.event_time] + spec.label.delay
    if spec.label.observed_at is not None:
        observed = rows[spec.label.observed_at].fillna(observed)
    labels = [
        {
            "id": ids[position],
            "value": rows[spec.label.column].iloc[position],
            "observed_at": observed.iloc[position].isoformat(),
        }
        for position in np.argsort(observed.to_numpy(), kind="stable")
        if pd.notna(rows[spec.label.column].iloc[position])
    ]
    for start in range(0, len(labels), LABELS_PER_REQUEST):
        client.feedback(spec.name, labels[start : start + LABELS_PER_REQUEST])
    return len(labels)


def assess(spec: ModelSpec, stores: Stores, traffic: Traffic) -> Quality:
    """Hold the answers against their labels, and against the registered scikit-learn pipeline of the version that gave them."""
    plan = stores.releases.current(spec.name)
    assert plan is not None
    manifest = stores.bundles.get(plan.champion.bundle).manifest
    labelled = traffic.rows[spec.label.column].notna().to_numpy()
    truth = encode_label(spec, traffic.rows[spec.label.column][labelled], manifest.classes)
    registered = predict(stores.registry.load(spec.name, plan.champion.version), traffic.rows[list(spec.feature_names)])
    trivial = baseline_output(spec, truth, len(manifest.classes), len(truth))
    return Quality(
        labelled=int(labelled.sum()),
        metrics=point_metrics(spec, Judged(truth, traffic.outputs[labelled])),
        trivial=point_metrics(spec, Judged(truth, trivial)),
        max_difference=float(np.abs(registered - traffic.outputs).max()),
    )
