"""Records of the prediction log as columns, and the table of one window of live traffic made from them.

Where the columns lie, and which records are new, is the business of `stores` and `operations`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.core.manifest import FeatureContract
from mlops_assets.core.records import SHADOW, LabelRecord, PredictionRecord
from mlops_assets.core.spec import ModelSpec

FEATURE = "feature."
OUTPUT = "output_"
SHED = (429, 503)

Contract = tuple[FeatureContract, ...]


@dataclass(frozen=True)
class Refused:
    """A record that fits no table, and why."""

    record: PredictionRecord | LabelRecord
    reason: str


class LiveWindow(msgspec.Struct, frozen=True):
    """What the table of one window holds. `content` names the log records it was made of.

    `refused` requests were not valid (4xx), `shed` ones were turned away (429, 503), `failed` ones met another error. Latencies are
    those of answered requests, in milliseconds, None where there are none.
    """

    window: str
    content: str
    rows: int
    answered: int
    labelled: int
    refused: int
    shed: int
    failed: int
    imputed_rows: int
    out_of_domain_rows: int
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    first_served_at: datetime | None
    last_served_at: datetime | None
    last_event_at: datetime | None
    last_label_observed_at: datetime | None

    @property
    def coverage(self) -> float | None:
        """Share of the answered rows that have a label; None without answered rows."""
        return self.labelled / self.answered if self.answered else None


def prediction_columns(
    records: Sequence[PredictionRecord], contracts: Mapping[str, Contract | None]
) -> tuple[pa.Table, list[Refused]]:
    """Predictions as columns, in their order within each bundle, and those that cannot be put into columns.

    Parameters
    ----------
    contracts
        The features of each bundle that answered, in the order in which the records hold them; None where the bundle is lost.

    Returns
    -------
    table, refused
        One row per record: its plain fields, `feature.<name>` (float64, true and false as 1 and 0, or text) for each feature of
        the contracts, null where missing, and `output_<k>` (float64).
    """
    groups: dict[str, list[PredictionRecord]] = defaultdict(list)
    for record in records:
        groups[record.bundle].append(record)
    tables, refused = [], []
    for bundle, group in groups.items():
        contract = contracts[bundle]
        fitting = []
        for record in group:
            if contract is None and record.features:
                refused.append(Refused(record, f"bundle {bundle} is not stored, so its features have no names"))
            elif contract is not None and record.features and len(record.features) != len(contract):
                refused.append(Refused(record, f"{len(record.features)} features where the bundle has {len(contract)}"))
            else:
                fitting.append(record)
        table, wrong = _bundle_columns(fitting, contract or ())
        tables.append(table)
        refused += wrong
    return combine(tables, _PREDICTION), refused


def label_columns(records: Sequence[LabelRecord]) -> pa.Table:
    """Labels as columns, one row each in their order: a value stands in `number` (true and false as 1 and 0) or in `text`."""
    values = [record.value for record in records]
    return pa.table(
        {
            "id": pa.array([record.id for record in records], pa.string()),
            "entity": pa.array([record.entity for record in records], pa.string()),
            "event_time": _times([record.event_time for record in records]),
            "name": pa.array([record.name for record in records], pa.string()),
            "number": pa.array([None if isinstance(value, str) else float(value) for value in values], pa.float64()),
            "text": pa.array([value if isinstance(value, str) else None for value in values], pa.string()),
            "observed_at": _times([record.observed_at for record in records]),
            "received_at": _times([record.received_at for record in records]),
            "revision": pa.array([record.revision for record in records], pa.int64()),
        },
        schema=LABEL,
    )


def combine(tables: Sequence[pa.Table], schema: pa.Schema | None = None) -> pa.Table:
    """Tables one below the other; a column that one of them lacks is null there, and one of text here and numbers there is text."""
    kinds: dict[str, pa.DataType] = {} if schema is None else {field.name: field.type for field in schema}
    for table in tables:
        for field in table.schema:
            known = kinds.setdefault(field.name, field.type)
            if known != field.type:
                kinds[field.name] = pa.string()
    target = pa.schema(list(kinds.items()))
    return pa.concat_tables([_cast(table, target) for table in tables]) if tables else target.empty_table()


def window_table(spec: ModelSpec, predictions: pa.Table, labels: pa.Table) -> pa.Table:
    """The table of one window: each prediction once, with the label that counts, in the order of event time.

    Of predictions with equal id, role and version the first served stays. Of the labels that name a request, by its id or by
    entity and event time, the highest revision counts, and of equal ones the last received. The same records give the same
    table, in whatever order and however often they come.

    Parameters
    ----------
    predictions
        As `prediction_columns` makes them, several tables combined.
    labels
        As `label_columns` makes them, of the declared label alone.
    """
    rows = _declared_columns(spec, predictions)
    rows = rows.sort_by([(name, "ascending") for name in _ORDER])
    rows = _first_of_each(rows)
    chosen = _labels_of(rows, _in_precedence(labels))
    return _with_labels(spec, rows, labels, chosen)


def summary(window: str, content: str, table: pa.Table) -> LiveWindow:
    """What is said of a window's table: of all that was asked, whoever answered. What was scored in shadow is not counted."""
    table = table.filter(pc.not_equal(table["role"], SHADOW))
    status, answered = table["status"], pc.equal(table["status"], 200)
    shed = pc.is_in(status, value_set=pa.array(SHED, status.type))
    refused = pc.and_not(pc.and_(pc.greater_equal(status, 400), pc.less(status, 500)), shed)
    latency = table["latency_ms"].filter(answered)
    median, slowest = (
        pc.quantile(latency, q=[0.5, 0.99]).to_pylist() if len(latency) and latency.null_count == 0 else (None, None)
    )
    labelled = pc.and_(pc.is_valid(table["label"]), answered)
    counts = {"answered": _count(answered), "refused": _count(refused), "shed": _count(shed)}
    return LiveWindow(
        window=window,
        content=content,
        rows=table.num_rows,
        failed=table.num_rows - sum(counts.values()),
        labelled=_count(labelled),
        imputed_rows=_count(pc.not_equal(table["imputed"], "")),
        out_of_domain_rows=_count(pc.not_equal(table["out_of_domain"], "")),
        latency_p50_ms=median,
        latency_p99_ms=slowest,
        first_served_at=pc.min(table["served_at"]).as_py(),
        last_served_at=pc.max(table["served_at"]).as_py(),
        last_event_at=pc.max(table["event_time"]).as_py(),
        last_label_observed_at=pc.max(table["label_observed_at"]).as_py(),
        **counts,
    )


def microseconds(moments: Sequence[datetime]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Moments as microseconds since 1970, shape (n,): exact for the years that a log can meet."""
    seconds = np.fromiter((moment.timestamp() for moment in moments), np.float64, len(moments))
    return np.rint(seconds * 1e6).astype(np.int64)


TIME = pa.timestamp("us", "UTC")
LABEL = pa.schema(
    [
        ("id", pa.string()),
        ("entity", pa.string()),
        ("event_time", TIME),
        ("name", pa.string()),
        ("number", pa.float64()),
        ("text", pa.string()),
        ("observed_at", TIME),
        ("received_at", TIME),
        ("revision", pa.int64()),
    ]
)
_PREDICTION = pa.schema(
    [
        ("id", pa.string()),
        ("entity", pa.string()),
        ("event_time", TIME),
        ("served_at", TIME),
        ("version", pa.int64()),
        ("bundle", pa.string()),
        ("release", pa.int64()),
        ("rollout", pa.string()),
        ("role", pa.string()),
        ("status", pa.int64()),
        ("error", pa.string()),
        ("latency_ms", pa.float64()),
        ("imputed", pa.string()),
        ("out_of_domain", pa.string()),
    ]
)
_ORDER = ("event_time", "served_at", "id", "role", "version", "latency_ms")
_KEY = ["id", "role", "version"]


def _bundle_columns(records: list[PredictionRecord], contract: Contract) -> tuple[pa.Table, list[Refused]]:
    nothing = (None,) * len(contract)
    received = list(zip(*[record.features or nothing for record in records], strict=True)) or [()] * len(contract)
    columns, wrong = [], {}
    for feature, values in zip(contract, received, strict=True):
        kind = pa.string() if feature.type == "category" else pa.float64()
        try:
            columns.append(pa.array(values, kind, from_pandas=True))
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            for position, value in enumerate(values):
                if value is not None and isinstance(value, str) != (feature.type == "category"):
                    wrong[position] = f"feature {feature.name!r}: {value!r} is no {feature.type}"
    if wrong:
        table, others = _bundle_columns([one for n, one in enumerate(records) if n not in wrong], contract)
        return table, [*(Refused(records[n], reason) for n, reason in wrong.items()), *others]
    names = [f"{FEATURE}{feature.name}" for feature in contract]
    outputs = _outputs([record.output for record in records])
    return pa.table(
        [*_plain(records), *columns, *outputs],
        names=[*_PREDICTION.names, *names, *(f"{OUTPUT}{k}" for k in range(len(outputs)))],
    ), []


def _plain(records: list[PredictionRecord]) -> list[pa.Array]:
    values: list[list[Any]] = [
        [record.id for record in records],
        [record.entity for record in records],
        [],
        [],
        [record.version for record in records],
        [record.bundle for record in records],
        [record.release for record in records],
        [record.rollout for record in records],
        [record.role for record in records],
        [record.status for record in records],
        [record.error for record in records],
        [record.latency_ms for record in records],
        [",".join(record.imputed) for record in records],
        [",".join(record.out_of_domain) for record in records],
    ]
    times = {
        2: pa.array(microseconds([record.event_time for record in records])).cast(TIME),
        3: pa.array(microseconds([record.served_at for record in records])).cast(TIME),
    }
    return [times[n] if n in times else pa.array(values[n], field.type) for n, field in enumerate(_PREDICTION)]


def _outputs(outputs: list[tuple[float, ...]]) -> list[pa.Array]:
    width = max(map(len, outputs), default=0)
    padded = [(*output, *[None] * (width - len(output))) if len(output) < width else output for output in outputs]
    return [pa.array(column, pa.float64()) for column in zip(*padded, strict=True)]


def _times(moments: Sequence[datetime | None]) -> pa.Array:
    return pa.array(moments, TIME)


def _cast(table: pa.Table, target: pa.Schema) -> pa.Table:
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in target
    ]
    return pa.table(columns, schema=target)


def _declared_columns(spec: ModelSpec, predictions: pa.Table) -> pa.Table:
    """Every declared feature and every output as a column, also where no record has it; former features after them."""
    kinds = {f"{FEATURE}{one.name}": pa.string() if one.is_category else pa.float64() for one in spec.features}
    kinds |= {
        name: predictions.schema.field(name).type
        for name in predictions.column_names
        if name.startswith(FEATURE) and name not in kinds
    }
    present = sum(name.startswith(OUTPUT) for name in predictions.column_names)
    declared = {"binary": 2, "regression": 1}.get(spec.task) or len(spec.label.classes or ())
    kinds |= {f"{OUTPUT}{k}": pa.float64() for k in range(max(present, declared))}
    target = pa.schema([*_PREDICTION, *(pa.field(name, kind) for name, kind in kinds.items())])
    columns = {
        name: _numbers(predictions[name])
        for name, kind in kinds.items()
        if kind == pa.float64()
        and name in predictions.column_names
        and pa.types.is_string(predictions.schema.field(name).type)
    }
    for name, column in columns.items():
        predictions = predictions.set_column(predictions.column_names.index(name), name, column)
    return _cast(predictions, target)


def _numbers(column: pa.ChunkedArray) -> pa.Array:
    """Text as numbers where it is one: what a feature held while it was declared as a category."""
    return pa.array([_number(value) for value in column.to_pylist()], pa.float64())


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _first_of_each(rows: pa.Table) -> pa.Table:
    """Of rows with one key the first served; the order of the others stays."""
    keyed = rows.select(_KEY)
    if keyed.group_by(_KEY).aggregate([]).num_rows == rows.num_rows:
        return rows
    by_service = pc.sort_indices(rows, [(name, "ascending") for name in ("served_at", *_ORDER)])
    keyed = keyed.take(by_service).append_column("row", by_service)
    first = keyed.group_by(_KEY, use_threads=False).aggregate([("row", "first")])["row_first"]
    return rows.take(first.take(pc.sort_indices(first)))


def _in_precedence(labels: pa.Table) -> pa.Table:
    """The labels with the one that counts last, and no two that could be told apart by chance alone."""
    order = ("revision", "received_at", "observed_at", "number", "text")
    return labels.sort_by([(name, "ascending") for name in order])


def _labels_of(rows: pa.Table, labels: pa.Table) -> tuple[pa.Table, pa.Array]:
    """The labels in precedence, and for each row the position of the one that counts, null where there is none."""
    by_id = _last_position(rows["id"], labels["id"])
    named = pc.is_valid(labels["entity"])
    if not pc.any(named).as_py():
        return labels, by_id
    by_event = _last_position(_event(rows), pc.if_else(named, _event(labels), None))
    return labels, pc.max_element_wise(by_id, by_event)


def _last_position(wanted: pa.ChunkedArray, keys: pa.ChunkedArray) -> pa.Array:
    """For each wanted key the highest position at which it stands in `keys`, null where it does not."""
    reversed_keys = keys.combine_chunks().take(pa.array(np.arange(len(keys) - 1, -1, -1)))
    found = pc.index_in(wanted, value_set=reversed_keys, skip_nulls=True)
    return pc.subtract(len(keys) - 1, found.cast(pa.int64())).combine_chunks()


def _event(table: pa.Table) -> pa.ChunkedArray:
    """Entity and event time as one text; null where either is not known."""
    return pc.binary_join_element_wise(table["event_time"].cast(pa.int64()).cast(pa.string()), table["entity"], "|")


def _with_labels(spec: ModelSpec, rows: pa.Table, labels: pa.Table, chosen: tuple[pa.Table, pa.Array]) -> pa.Table:
    ordered, positions = chosen
    text = any(isinstance(one, str) for one in spec.label.classes or ()) or ordered["text"].null_count < len(ordered)
    values = pc.coalesce(ordered["text"], ordered["number"].cast(pa.string())) if text else ordered["number"]
    kinds = {"label": pa.string() if text else pa.float64(), "label_observed_at": TIME, "label_revision": pa.int64()}
    for (name, kind), column in zip(kinds.items(), (values, ordered["observed_at"], ordered["revision"]), strict=True):
        rows = rows.append_column(pa.field(name, kind), column.take(positions).cast(kind))
    return rows


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)
