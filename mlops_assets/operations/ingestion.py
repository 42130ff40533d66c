"""One model's part of taking log segments into the lake: records into the windows of their event times, labels to predictions.

Whatever interrupts it, doing it again leaves the same windows: every part can be written twice, and a segment is marked last.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_assets.core.live_traffic import (
    LABEL,
    TIME,
    Contract,
    Refused,
    combine,
    label_columns,
    microseconds,
    prediction_columns,
)
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.records import LabelRecord, PredictionRecord
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.bundles import BundleError
from mlops_assets.stores.prediction_log import Damage
from mlops_assets.stores.traffic import Kind, TrafficStore

TABLES = "live_traffic"


class Ingestion:
    """Takes segments one after the other, and settles them together. Only one at a time may work on a model."""

    def __init__(self, spec: ModelSpec, stores: Stores):
        self.records = 0
        self.segments = 0
        self.quarantined = 0
        self.windows: set[str] = set()
        self._spec = spec
        self._stores = stores
        self._traffic = TrafficStore(stores.lake, spec.name)
        self._calendar = Windows.of(spec)
        self._contracts: dict[str, Contract | None] = {}
        self._ingested = self._traffic.ingested()
        self._reset()

    def waiting(self) -> tuple[str, ...]:
        """Sealed segments of which not everything is in the lake, oldest first."""
        return tuple(name for name in self._stores.log.sealed() if name not in self._ingested)

    @property
    def full(self) -> bool:
        """Has so much been taken that it should be settled before more is?"""
        return len(self._taken) >= _SEGMENTS or self._held >= _HELD_ROWS

    def take(self, segment: str) -> None:
        """Write the records of one segment to where they belong, but for labels that name a prediction's id."""
        with _collector_paused():
            self._take(segment)

    def _take(self, segment: str) -> None:
        damages: list[Damage] = []
        predictions: list[PredictionRecord] = []
        labels: list[LabelRecord] = []
        for record in self._stores.log.segment(segment, self._spec.name, skipped=damages):
            if isinstance(record, LabelRecord):
                labels.append(record)
            elif not record.probe:
                predictions.append(record)
        refused = [*self._take_predictions(segment, predictions), *self._take_labels(segment, labels)]
        if refused or damages:
            self._traffic.write_quarantine(segment, _quarantine(segment, refused, damages))
        self.records += len(predictions) + len(labels)
        self.quarantined += len(refused) + len(damages)
        self._taken.append(segment)

    def settle(self) -> None:
        """Bring labels to their predictions, say which windows have changed, and mark what was taken as ingested."""
        if not self._taken:
            return
        waiting, waited = self._place_labels()
        self._traffic.update_contents(self._touched)
        if waiting is not None:
            kept = self._traffic.write_unplaced(self._taken[0], waiting) if len(waiting) else None
            self._traffic.remove_unplaced(name for name in waited if name != kept)
        there = set(self._stores.log.sealed())
        self._ingested = frozenset(there & {*self._ingested, *self._taken})
        self._traffic.mark_ingested(self._ingested)
        self.segments += len(self._taken)
        self.windows |= self._touched
        self._reset()

    def _reset(self) -> None:
        self._taken: list[str] = []
        self._touched: set[str] = set()
        self._fresh: list[tuple[str, pa.ChunkedArray]] = []
        self._by_id: list[pa.Table] = []
        self._held = 0

    def _take_predictions(self, segment: str, records: list[PredictionRecord]) -> list[Refused]:
        asked = microseconds([record.event_time for record in records])
        served = microseconds([record.served_at for record in records])
        refused = self._outside(records, asked, served)
        if refused:
            left_out = {id(one.record) for one in refused}
            records = [record for record in records if id(record) not in left_out]
        for bundle in {record.bundle for record in records}:
            self._contracts.setdefault(bundle, self._contract(bundle))
        table, unfit = prediction_columns(records, self._contracts)
        for window, rows in self._by_window(table):
            self._write("predictions", window, segment, rows)
            self._fresh.append((window, rows["id"]))
            self._held += len(rows)
        return [*refused, *unfit]

    def _take_labels(self, segment: str, records: list[LabelRecord]) -> list[Refused]:
        nameless = [one for one in records if one.id is None and (one.entity is None or one.event_time is None)]
        refused = [
            Refused(record, "names neither a prediction nor an entity and its event time") for record in nameless
        ]
        by_id = [record for record in records if record.id is not None]
        if by_id:
            self._by_id.append(label_columns(by_id))
            self._held += len(by_id)
        timed = [
            (record, record.event_time)
            for record in records
            if record.id is None and record.entity is not None and record.event_time is not None
        ]
        by_event = [record for record, _ in timed]
        asked = microseconds([moment for _, moment in timed])
        outside = self._outside(by_event, asked, microseconds([record.received_at for record in by_event]))
        if outside:
            left_out = {id(one.record) for one in outside}
            by_event = [record for record in by_event if id(record) not in left_out]
        for window, rows in self._by_window(label_columns(by_event)):
            self._write_labels(window, segment, rows)
        return [*refused, *outside]

    def _place_labels(self) -> tuple[pa.Table | None, tuple[str, ...]]:
        """Write labels that name a prediction to its window.

        Returns
        -------
        waiting, waited
            The labels that have none yet, None where nothing is new about them; and the names of the parts that held them.
        """
        unplaced = dict(self._traffic.unplaced()) if self._fresh else {}
        if not self._by_id and not unplaced:
            return None, ()
        new = combine(self._by_id, LABEL)
        labels = _unique(combine([new, *unplaced.values()], LABEL))
        windows = _find(labels["id"], self._fresh)
        asked_now = pc.is_in(labels["id"], value_set=new["id"])
        open_ids = pc.unique(labels["id"].filter(pc.and_(asked_now, pc.is_null(windows))))
        if len(open_ids):
            windows = pc.coalesce(windows, _find(labels["id"], self._older(open_ids)))
        placed = pc.is_valid(windows)
        for window, rows in _split(labels.filter(placed), windows.filter(placed).to_numpy(zero_copy_only=False)):
            self._write_labels(window, self._taken[0], rows)
        waiting = labels.filter(pc.invert(placed))
        if unplaced and not self._by_id and len(waiting) == sum(map(len, unplaced.values())):
            return None, ()
        return waiting, tuple(unplaced)

    def _older(self, wanted: pa.Array) -> Iterator[tuple[str, pa.ChunkedArray]]:
        """The ids of earlier traffic by window, newest window first, until all wanted ones have come."""
        for window, content in sorted(self._traffic.contents().items(), reverse=True):
            if not content.predictions:
                continue
            ids = self._ids(window, content.content)
            yield window, ids
            wanted = wanted.filter(pc.invert(pc.is_in(wanted, value_set=ids.combine_chunks())))
            if not len(wanted):
                return

    def _ids(self, window: str, content: str) -> pa.ChunkedArray:
        lake, model, table = self._stores.lake, self._spec.name, f"{TABLES}/{window}"
        if lake.has(model, table) and lake.read_attrs(model, table).get("content") == content:
            return lake.read_arrow(model, table, ["id"])["id"]
        parts = self._traffic.parts("predictions", window)
        return pa.concat_tables([self._traffic.read_part("predictions", window, part, ["id"]) for part in parts])["id"]

    def _write_labels(self, window: str, source: str, rows: pa.Table) -> None:
        ours = pc.equal(rows["name"], self._spec.label.column)
        kinds: tuple[tuple[Kind, pa.ChunkedArray], ...] = (("labels", ours), ("metrics", pc.invert(ours)))
        for kind, mask in kinds:
            chosen = rows.filter(mask)
            if len(chosen):
                self._write(kind, window, source, chosen)

    def _write(self, kind: Kind, window: str, source: str, rows: pa.Table) -> None:
        self._traffic.write_part(kind, window, source, rows)
        self._touched.add(window)

    def _by_window(self, table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        if len(table):
            yield from _split(table, self._calendar.keys(table["event_time"].to_pandas()).to_numpy())

    def _outside(
        self, records: Sequence[PredictionRecord | LabelRecord], asked: NDArray[np.int64], known: NDArray[np.int64]
    ) -> list[Refused]:
        """The records whose event time lies in no window: before the first, after the last, or later than one from now."""
        begin, end = self._limits
        now = microseconds([datetime.now(UTC)])[0]
        latest = np.minimum(known, now) + self._length
        early, late, ahead = asked < begin, asked >= end, asked > latest
        refused = []
        for position in np.flatnonzero(early | late | ahead).tolist():
            if early[position]:
                reason = f"its event time lies before the first window {self._calendar.first}"
            elif late[position]:
                reason = f"its event time lies after the end of the history, {self._calendar.until}"
            else:
                reason = "its event time lies more than one window ahead of the clock"
            refused.append(Refused(records[position], reason))
        return refused

    @cached_property
    def _limits(self) -> tuple[int, int]:
        """Begin of the first window and end of the last, in microseconds since 1970."""
        calendar = self._calendar
        begin = calendar.bounds(calendar.first)[0]
        if calendar.until is None:
            return int(microseconds([begin])[0]), np.iinfo(np.int64).max
        last = calendar.bounds(calendar.key(calendar.until - timedelta(microseconds=1)))[1]
        limits = microseconds([begin, last])
        return int(limits[0]), int(limits[1])

    @cached_property
    def _length(self) -> int:
        """Microseconds of one window."""
        begin, end = self._calendar.bounds(self._calendar.first)
        return (end - begin) // timedelta(microseconds=1)

    def _contract(self, bundle: str) -> Contract | None:
        if bundle in self._contracts:
            return self._contracts[bundle]
        try:
            return self._stores.bundles.get(bundle).manifest.features
        except BundleError:
            return None


def unread_since(spec: ModelSpec, stores: Stores) -> datetime | None:
    """When the oldest sealed segment was begun of which not everything is in the lake; None when there is none."""
    ingested = TrafficStore(stores.lake, spec.name).ingested()
    unread = (name for name in stores.log.sealed() if name not in ingested)
    return next((began for name in unread if (began := _began(name)) is not None), None)


QUARANTINE = pa.schema(
    [
        ("segment", pa.string()),
        ("offset", pa.int64()),
        ("at", TIME),
        ("event_time", TIME),
        ("id", pa.string()),
        ("reason", pa.string()),
        ("content", pa.binary()),
    ]
)
_SEGMENTS = 50
_HELD_ROWS = 500_000
_encode = msgspec.msgpack.Encoder().encode


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Records and columns make millions of objects and no cycle; looking for cycles among them takes half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _quarantine(segment: str, refused: list[Refused], damages: list[Damage]) -> pa.Table:
    rows: list[dict[str, object]] = [
        {
            "segment": segment,
            "offset": None,
            "at": one.record.served_at if isinstance(one.record, PredictionRecord) else one.record.received_at,
            "event_time": one.record.event_time,
            "id": one.record.id,
            "reason": one.reason,
            "content": _encode(one.record),
        }
        for one in refused
    ]
    began = _began(segment)
    for damage in damages:
        rows.append(
            {
                "segment": segment,
                "offset": damage.offset,
                "at": began,
                "event_time": None,
                "id": None,
                "reason": damage.what,
                "content": _bytes_of(damage),
            }
        )
    return pa.Table.from_pylist(rows, QUARANTINE)


def _bytes_of(damage: Damage) -> bytes:
    with damage.path.open("rb") as file:
        file.seek(damage.offset)
        return file.read(damage.bytes)


def _began(segment: str) -> datetime | None:
    """When a segment was started, as its name tells."""
    try:
        return datetime.strptime(segment.partition("Z-")[0], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
    except ValueError:
        return None


def _split(table: pa.Table, windows: NDArray[np.object_]) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each window, in their order."""
    codes, names = pd.factorize(windows, sort=True)
    if len(names) == 1:
        yield names[0], table
        return
    ordered = table.take(pa.array(np.argsort(codes, kind="stable")))
    ends = np.cumsum(np.bincount(codes, minlength=len(names))).tolist() if len(names) else []
    for name, begin, end in zip(names, [0, *ends], ends, strict=False):
        yield name, ordered.slice(begin, end - begin)


def _find(
    ids: pa.ChunkedArray, known: "Sequence[tuple[str, pa.ChunkedArray]] | Iterator[tuple[str, pa.ChunkedArray]]"
) -> pa.Array:
    """The window of each id, null where it is not known; of several the first."""
    found = pa.nulls(len(ids), pa.string())
    for window, there in known:
        hit = pc.is_in(ids, value_set=there.combine_chunks()).combine_chunks()
        found = pc.if_else(pc.and_(hit, pc.is_null(found)), window, found)
    return found


def _unique(labels: pa.Table) -> pa.Table:
    return labels.group_by(LABEL.names, use_threads=False).aggregate([]).select(LABEL.names).cast(LABEL)
