"""Sending a model's real past to its service as if it happened now: requests in event-time order, then the labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    traffic = ask(spec, client, rows, every, singles)
    return replace(traffic, labels=post_labels(spec, client, labels_of(spec, rows, traffic.prediction_ids)))


def ask(spec: ModelSpec, client: PredictionClient, rows: pd.DataFrame, every: timedelta, singles: int = 0) -> Traffic:
    """Ask for every row as `send` does, and post no label yet."""
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
    return Traffic(
        rows, np.array(outputs), tuple(ids), 0, imputed, out_of_domain, np.array(single_ms), np.array(batch_ms)
    )


def labels_of(spec: ModelSpec, rows: pd.DataFrame, ids: Sequence[str], late: timedelta | None = None) -> pd.DataFrame:
    """The labels of asked rows: columns `id`, `value` and `observed_at`, in the order in which they became known.

    Parameters
    ----------
    late
        Time after its event at which a label becomes known; left out: what the declaration says.
    """
    observed = rows[spec.event_time] + (late or spec.label.delay)
    if late is None and spec.label.observed_at is not None:
        observed = rows[spec.label.observed_at].fillna(observed)
    labels = pd.DataFrame({"id": list(ids), "value": rows[spec.label.column].array, "observed_at": observed.array})
    return labels[labels["value"].notna()].sort_values("observed_at", kind="stable", ignore_index=True)


def post_labels(spec: ModelSpec, client: PredictionClient, labels: pd.DataFrame) -> int:
    """Hand labels in, in requests of at most 1,000; returns how many."""
    told = [moment.isoformat() for moment in labels["observed_at"]]
    bodies = [
        {"id": one, "value": value, "observed_at": at}
        for one, value, at in zip(labels["id"].tolist(), labels["value"].tolist(), told, strict=True)
    ]
    for start in range(0, len(bodies), LABELS_PER_REQUEST):
        client.feedback(spec.name, bodies[start : start + LABELS_PER_REQUEST])
    return len(bodies)


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
