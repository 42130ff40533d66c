"""What the data of one window are, read from its table in streams: never more than some thousand rows are in memory.

For what needs the answers and their labels row by row, see `answers.py`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.core.live_traffic import FEATURE
from mlops_assets.core.monitoring.columns import arrow_numbers, read
from mlops_assets.core.monitoring.profile import WindowProfile, profile_batches
from mlops_assets.core.monitoring.reference import ReferenceProfile
from mlops_assets.core.records import SHADOW
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.ingestion import TABLES
from mlops_assets.operations.stores import Stores

_NAMED = 20  # unseen categories that are named


@dataclass(frozen=True)
class Answered:
    """How many requests a window had, how many answered rows, and which model answered most of them, canaries left out."""

    requests: int
    rows: int
    version: int | None
    bundle: str | None


@dataclass(frozen=True)
class WindowData:
    """One window's table, asked for what the monitors need of its features."""

    spec: ModelSpec
    stores: Stores
    window: str

    def answered(self) -> Answered:
        """Who answered, from the four columns that tell."""
        requests, rows, answers, canary = 0, 0, Counter[tuple[str, int]](), Counter[tuple[str, int]]()
        for batch in self._batches(("role", "status", "bundle", "version")):
            asked = batch.filter(pc.not_equal(_plain(batch.column("role")), SHADOW))
            requests += asked.num_rows
            answered = pa.table(asked.filter(pc.equal(asked.column("status"), 200)))
            for group in answered.group_by(["role", "bundle", "version"]).aggregate([([], "count_all")]).to_pylist():
                whose = canary if group["role"] == "challenger" else answers
                whose[group["bundle"], group["version"]] += group["count_all"]
                rows += group["count_all"]
        # A canary may answer most by now: until it is promoted it is the champion that the monitors judge.
        counted = answers or canary
        if not counted:
            return Answered(requests, 0, None, None)
        (bundle, version), _ = max(counted.items(), key=lambda one: (one[1], one[0]))
        return Answered(requests, rows, version, bundle)

    def profile(self, reference: ReferenceProfile) -> WindowProfile:
        """The answered rows, counted by the cells of a reference."""
        columns = {name: FEATURE + name for name in reference.binning.names}
        batches = self._answered_batches(("event_time", *columns.values()))
        return profile_batches(reference.binning, batches, "event_time", columns)

    def unseen(self, reference: ReferenceProfile, profile: WindowProfile) -> dict[str, tuple[str, ...]]:
        """The categories that the reference does not know, the most frequent first; read only where some were counted."""
        found = {}
        for bins in reference.binning.features:
            if bins.kind == "category" and profile.counts[reference.binning.slice_of(bins.name)][-2]:
                values = self._values(bins.name).drop_null().cast(pa.string())
                new = values.filter(pc.invert(pc.is_in(values, value_set=pa.array(bins.levels, pa.string()))))
                counts = sorted(pc.value_counts(new).to_pylist(), key=lambda one: (-one["counts"], one["values"]))
                found[bins.name] = tuple(one["values"] for one in counts[:_NAMED])
        return found

    def impossible(self, reference: ReferenceProfile, profile: WindowProfile) -> dict[str, float]:
        """Share of each number's values outside its declared range; read only where the extremes are outside."""
        shares = {}
        places = {name: place for place, name in enumerate(reference.binning.names)}
        for feature in self.spec.features:
            place = places.get(feature.name)
            if feature.is_category or place is None:
                continue
            low = -inf if feature.minimum is None else feature.minimum
            high = inf if feature.maximum is None else feature.maximum
            if profile.minimum[place] < low or profile.maximum[place] > high:
                shares[feature.name] = self._share_outside(feature.name, low, high)
        return shares

    def _share_outside(self, feature: str, low: float, high: float) -> float:
        outside, there = 0, 0
        for batch in self._answered_batches((FEATURE + feature,)):
            # a column may hold text where the type of the feature has changed from one bundle to the next
            values = read(arrow_numbers, _plain(batch.column(FEATURE + feature)), feature).values
            outside += int(np.count_nonzero((values < low) | (values > high)))
            there += int(np.count_nonzero(~np.isnan(values)))
        return outside / there if there else 0.0

    def _values(self, feature: str) -> pa.ChunkedArray:
        column = FEATURE + feature
        return pa.chunked_array([_plain(batch.column(column)) for batch in self._answered_batches((column,))])

    def _answered_batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for batch in self._batches(("role", "status", *columns)):
            asked = pc.not_equal(_plain(batch.column("role")), SHADOW)
            yield batch.filter(pc.and_(asked, pc.equal(batch.column("status"), 200)))

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return self.stores.lake.batches(self.spec.name, f"{TABLES}/{self.window}", columns)


def _plain(column: pa.Array) -> pa.Array:
    """Without the dictionary that text is read with."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
