"""A home with a declared model, a stored bundle, and segments of a log made of what a test says."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from mlops_assets.core.manifest import FeatureContract
from mlops_assets.core.records import LabelRecord, PredictionRecord, Record
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.live_traffic import compact, ingest, read_window, stale_windows
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.home import Home
from mlops_assets.stores.prediction_log import LogWriter
from mlops_assets_tests.core.examples import LIVE_FROM, make_spec
from mlops_assets_tests.stores.test_bundles import FILES, MANIFEST

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
FEATURES = (
    FeatureContract("temp", "number"),
    FeatureContract("seats", "integer"),
    FeatureContract("night", "boolean"),
    FeatureContract("carrier", "category"),
    FeatureContract("origin", "category"),
)


def window(number: int) -> str:
    """The key of the day so many after going live."""
    return (LIVE_FROM + number * DAY).strftime("%Y-%m-%d")


class Traffic:
    """Writes segments and takes them into the lake. Times are hours after going live; a window is a day."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.stores = Stores(Home(folder))
        self.spec: ModelSpec = make_spec(**changes)
        manifest = msgspec.structs.replace(MANIFEST, model="delay", features=FEATURES)
        self.bundle = self.stores.bundles.put(manifest, FILES)
        self.written = 0

    @staticmethod
    def declared(**changes: Any) -> ModelSpec:
        """The declaration alone."""
        return make_spec(**changes)

    def prediction(self, number: int, hours: float | None = None, **changes: Any) -> PredictionRecord:
        """Request `r<number>` for entity `E<number>`, asked and served at so many hours, or at `number`."""
        at = LIVE_FROM + (number if hours is None else hours) * HOUR
        record = PredictionRecord(
            id=f"r{number}",
            model="delay",
            version=3,
            bundle=self.bundle,
            release=1,
            rollout="r-1",
            role="champion",
            event_time=at,
            served_at=at,
            entity=f"E{number}",
            features=(10.0 + number, 100.0, True, None, "EWR"),
            output=(0.4, 0.6),
            latency_ms=1.5,
        )
        return msgspec.structs.replace(record, **changes)

    def label(self, number: int, value: Any = 1, hours: float | None = None, **changes: Any) -> LabelRecord:
        """The label of request `r<number>`, observed and received an hour after it, or at so many hours."""
        at = LIVE_FROM + (number + 1 if hours is None else hours) * HOUR
        return msgspec.structs.replace(LabelRecord("delay", "late", value, at, at, id=f"r{number}"), **changes)

    def label_by_event(self, number: int, value: Any = 1, **changes: Any) -> LabelRecord:
        event = {"id": None, "entity": f"E{number}", "event_time": LIVE_FROM + number * HOUR}
        return self.label(number, value, **{**event, **changes})

    def segment(self, *records: Record) -> Path:
        """One sealed segment of these records."""
        self.written += 1
        log = LogWriter(self.stores.home.prediction_log, f"w{self.written}")
        log.append(records)
        log.close()
        return self.stores.home.prediction_log / self.stores.log.sealed()[-1]

    def take(self) -> dict[str, str]:
        """Ingest, and compact what is stale; returns what was stale."""
        ingest(self.stores, [self.spec])
        stale = stale_windows(self.spec, self.stores)
        for key in stale:
            compact(self.spec, self.stores, key)
        return stale

    def read(self, number: int = 0) -> pd.DataFrame:
        return read_window(self.spec, self.stores, window(number))

    def tables(self) -> dict[str, str]:
        """Every compacted window as CSV text."""
        names = self.stores.lake.tables("delay", "live_traffic")
        return {name: read_window(self.spec, self.stores, name).to_csv() for name in names}

    def labels(self, number: int = 0) -> dict[str, float]:
        """Label by id of the rows of a window that have one."""
        rows = self.read(number).dropna(subset="label")
        return dict(zip(rows["id"], rows["label"], strict=True))


def in_segments(traffic: Traffic, records: Sequence[Record], sizes: Iterable[int]) -> None:
    """Write records as segments of these sizes, over and over, until all are written."""
    sizes, begin = list(sizes), 0
    while begin < len(records):
        for size in sizes:
            if begin < len(records):
                traffic.segment(*records[begin : begin + size])
                begin += size
