"""Reading what is known about a model's past: the declared source, and what the service has answered since and was told of it."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.core.history import AS_OF, DATA_HASH, hash_frame, known_at
from mlops_assets.core.live_traffic import FEATURE, LABEL, TIME, combine, window_table
from mlops_assets.core.monitoring.health import DataHealth
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.records import SHADOW
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training_request import TrainingRequest, blank, note
from mlops_assets.operations.live_traffic import ingest
from mlops_assets.operations.readings import DATA_HEALTH
from mlops_assets.operations.stores import Stores
from mlops_assets.sources.table import read_source
from mlops_assets.stores.traffic import Kind, TrafficStore


@dataclass(frozen=True)
class History:
    """Rows known at `as_of`; `frame.attrs` carries `as_of` and `data_hash` on."""

    frame: pd.DataFrame
    as_of: datetime
    data_hash: str
    source_rows: int
    logged_rows: int


def read_history(
    spec: ModelSpec,
    stores: Stores,
    as_of: datetime | None = None,
    request: TrainingRequest | None = None,
    *,
    source: pd.DataFrame | None = None,
) -> History:
    """Source rows from before the model went live, and labelled answers from then on, as known at `as_of`.

    What is sealed in the log is taken into the lake first. Bad rows are left out: of windows whose data failed all, and of features
    whose feed was broken the values, as far as the monitors have found it.

    Parameters
    ----------
    as_of
        Event time up to which anything may be known. Left out: the newest label observed, else `live_from`.
    request
        What this training is asked to do otherwise; it goes on in the frame's `attrs`.
    source
        The declared source where it has been read already.

    Raises
    ------
    ValueError
        When the request leaves out what must be there.
    """
    ingest(stores, [spec])
    logged = _Logged(spec, stores)
    as_of = as_of or logged.newest_label()
    table = read_source(spec.source) if source is None else source
    before = known_at(spec, table, as_of, until=min(as_of, spec.live_from))
    rows = logged.labelled(as_of)
    frame = pd.concat([before, rows], ignore_index=True) if len(rows) else before.reset_index(drop=True)
    blank(spec, frame, () if request is None else request.without)
    data_hash = hash_frame(frame)
    frame.attrs = {AS_OF: as_of.isoformat(), DATA_HASH: data_hash}
    if request is not None:
        note(frame, request)
    return History(frame, as_of, data_hash, len(before), len(rows))


class _Logged:
    """The answers in the lake, window by window."""

    def __init__(self, spec: ModelSpec, stores: Stores) -> None:
        self._spec, self._stores = spec, stores
        self._traffic = TrafficStore(stores.lake, spec.name)
        self._windows = sorted(key for key, one in self._traffic.contents().items() if one.predictions)

    def newest_label(self) -> datetime:
        spec = self._spec
        moments = [
            pc.max(table["observed_at"]).as_py()
            for window in self._windows
            for table in self._parts("labels", window, ["observed_at"])
            if len(table)
        ]
        return max(spec.live_from, min(max(moments, default=spec.live_from), datetime.now(UTC)))

    def labelled(self, as_of: datetime) -> pd.DataFrame:
        """One row per answered event whose label was observed by `as_of`; of a question asked again, the last answer."""
        spec, calendar = self._spec, Windows.of(self._spec)
        found = [self._window(window, as_of) for window in self._windows if calendar.bounds(window)[0] < as_of]
        filled = [frame for frame in found if len(frame)]
        if not filled:
            return pd.DataFrame()
        frame = pd.concat(filled, ignore_index=True)
        frame = frame.drop_duplicates([spec.entity_key, spec.event_time], keep="last")
        return frame.reset_index(drop=True)

    def _window(self, window: str, as_of: datetime) -> pd.DataFrame:
        spec, health = self._spec, self._health(window)
        labels = combine(self._parts("labels", window), LABEL)
        labels = labels.filter(pc.less_equal(labels["observed_at"], pa.scalar(as_of, TIME)))
        if not len(labels) or (health is not None and health.verdict == "failed"):
            return pd.DataFrame()
        table = window_table(spec, combine(self._parts("predictions", window)), labels)
        counts = pc.and_(pc.equal(table["status"], 200), pc.not_equal(table["role"], SHADOW))
        in_time = pc.and_(
            pc.greater_equal(table["event_time"], pa.scalar(spec.live_from, TIME)),
            pc.less(table["event_time"], pa.scalar(as_of, TIME)),
        )
        rows = table.filter(pc.and_(pc.and_(counts, in_time), pc.is_valid(table["label"]))).to_pandas()
        return self._as_source(rows.drop_duplicates("id"), health)

    def _as_source(self, rows: pd.DataFrame, health: DataHealth | None) -> pd.DataFrame:
        """Logged rows under the names of the source, without the values of features whose feed was broken."""
        spec = self._spec
        present = [name for name in spec.feature_names if f"{FEATURE}{name}" in rows]
        frame = rows[[f"{FEATURE}{name}" for name in present]].set_axis(present, axis="columns")
        for name in () if health is None else health.broken:
            if name in frame:
                frame[name] = pd.Series(None, index=frame.index, dtype=frame[name].dtype)
        frame[spec.entity_key] = rows["entity"].fillna(rows["id"])
        frame[spec.event_time] = rows["event_time"]
        frame[spec.label.column] = rows["label"]
        if spec.label.observed_at is not None:
            frame[spec.label.observed_at] = rows["label_observed_at"]
        return frame

    def _health(self, window: str) -> DataHealth | None:
        name = f"{DATA_HEALTH}/{window}"
        if not self._stores.lake.has(self._spec.name, name):
            return None
        health: DataHealth = self._stores.lake.read_document(self._spec.name, name, DataHealth)
        return health

    def _parts(self, kind: Kind, window: str, columns: list[str] | None = None) -> list[pa.Table]:
        names = self._traffic.parts(kind, window)
        return [self._traffic.read_part(kind, window, name, columns) for name in names]
