"""Reading what is known about a model's past: the declared source, and what the service has logged since."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from mlops_assets.core.history import AS_OF, DATA_HASH, hash_frame, known_at
from mlops_assets.core.records import LabelRecord, PredictionRecord
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.stores import Stores
from mlops_assets.sources.table import read_source


@dataclass(frozen=True)
class History:
    """Rows known at `as_of`; `frame.attrs` carries `as_of` and `data_hash` on."""

    frame: pd.DataFrame
    as_of: datetime
    data_hash: str
    source_rows: int
    logged_rows: int


def read_history(spec: ModelSpec, stores: Stores, as_of: datetime | None = None) -> History:
    """Source rows from before the model went live, and labelled logged rows from then on, as known at `as_of`.

    Parameters
    ----------
    as_of
        Event time up to which anything may be known. Left out: the newest label observed in the log, else `live_from`.
    """
    logged = _LoggedRows.read(spec, stores)
    as_of = as_of or logged.newest_label(spec)
    source = known_at(spec, read_source(spec.source), as_of, until=min(as_of, spec.live_from))
    rows = logged.labelled(spec, as_of)
    frame = pd.concat([source, rows], ignore_index=True) if len(rows) else source.reset_index(drop=True)
    data_hash = hash_frame(frame)
    frame.attrs = {AS_OF: as_of.isoformat(), DATA_HASH: data_hash}
    return History(frame, as_of, data_hash, len(source), len(rows))


@dataclass(frozen=True)
class _LoggedRows:
    predictions: tuple[PredictionRecord, ...]
    labels: tuple[LabelRecord, ...]
    columns: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, spec: ModelSpec, stores: Stores) -> "_LoggedRows":
        predictions: dict[str, PredictionRecord] = {}
        labels = []
        columns: dict[str, tuple[str, ...]] = {}
        for record in stores.log.records(spec.name):
            if isinstance(record, LabelRecord):
                if record.name == spec.label.column:
                    labels.append(record)
            elif record.role != "challenger" and record.status == 200 and not record.probe:
                predictions.setdefault(record.id, record)
                if record.bundle not in columns:
                    contract = stores.bundles.get(record.bundle).manifest.features
                    columns[record.bundle] = tuple(feature.name for feature in contract)
        return cls(tuple(predictions.values()), tuple(labels), columns)

    def newest_label(self, spec: ModelSpec) -> datetime:
        newest = max((label.observed_at for label in self.labels), default=spec.live_from)
        return max(spec.live_from, min(newest, datetime.now(UTC)))

    def labelled(self, spec: ModelSpec, as_of: datetime) -> pd.DataFrame:
        """One row per answered event whose label was observed by `as_of`; of a question asked again, the last answer.

        The highest revision of a label counts, and of equal ones the last received, whichever way it names the request.
        """
        by_id: dict[str, LabelRecord] = {}
        by_event: dict[tuple[str | None, datetime | None], LabelRecord] = {}
        for label in sorted((one for one in self.labels if one.observed_at <= as_of), key=_precedence):
            if label.id is not None:
                by_id[label.id] = label
            else:
                by_event[label.entity, label.event_time] = label
        rows: dict[tuple[str, datetime], dict[str, Any]] = {}
        for record in self.predictions:
            named = by_id.get(record.id), by_event.get((record.entity, record.event_time))
            truths = [label for label in named if label is not None]
            if truths and spec.live_from <= record.event_time < as_of:
                event = record.entity or record.id, record.event_time
                rows[event] = self._row(spec, record, max(truths, key=_precedence))
        return pd.DataFrame(list(rows.values()))

    def _row(self, spec: ModelSpec, record: PredictionRecord, label: LabelRecord) -> dict[str, Any]:
        row: dict[str, Any] = dict(zip(self.columns[record.bundle], record.features, strict=True))
        row[spec.entity_key] = record.entity or record.id
        row[spec.event_time] = pd.Timestamp(record.event_time)
        row[spec.label.column] = label.value
        if spec.label.observed_at is not None:
            row[spec.label.observed_at] = pd.Timestamp(label.observed_at)
        return row


def _precedence(label: LabelRecord) -> tuple[int, datetime]:
    return label.revision, label.received_at
