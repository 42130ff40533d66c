"""What windows are compared with: the reference rows' profile as a whole and block by block, a few kilobytes a feature.

It is made once, when a model is trained, and kept in the model's bundle as `reference.npz`. Tests are elsewhere.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Self

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mlops_assets.core.monitoring.counting import Ints
from mlops_assets.core.monitoring.groups import profile_groups
from mlops_assets.core.monitoring.pooling import MOST_WINDOWS
from mlops_assets.core.monitoring.profile import (
    Binning,
    FeatureBins,
    Kind,
    WindowProfile,
    profile_frame,
)

MAX_BLOCKS = 400
_RUN = MOST_WINDOWS

_FORMAT = 1


@dataclass(frozen=True)
class ReferenceProfile:
    """The reference rows, counted.

    Attributes
    ----------
    binning
        The cells, laid over all reference rows.
    blocks
        Consecutive windows of the declared size, in time order; of more than 400, runs of eight spread over all of them.
    whole
        All reference rows, also those of no block.
    importance
        Share of each feature in the model's importance; the shares sum to 1.
    """

    binning: Binning
    blocks: tuple[WindowProfile, ...]
    whole: WindowProfile
    importance: dict[str, float]

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        kinds: Mapping[str, Kind],
        times: "pd.Series[pd.Timestamp] | None",
        blocks: ArrayLike | int,
        importance: Mapping[str, float] | None = None,
        max_blocks: int = MAX_BLOCKS,
    ) -> Self:
        """Profile reference rows.

        Parameters
        ----------
        frame
            Reference rows in time order, shape (n, at least the features).
        kinds
            Kind of each feature.
        times
            Event time of each row, shape (n,), for the phase.
        blocks
            Rows a block (a last one that is not full counts in the whole alone), or the key of each row's block, shape (n,),
            such as ``2013-01-05``; rows whose key is None are in no block.
        importance
            Importance of each feature, on any scale; a feature that is not named, or has a negative one, counts nothing.
            Without any that is positive all features count the same.

        Raises
        ------
        ProfileError
            If a feature has no column, or values of another kind.
        ValueError
            If `blocks` is no positive number of rows and not one key a row.
        """
        binning = Binning.of(frame, kinds)
        whole = profile_frame(binning, frame, times)
        made = profile_groups(binning, frame, _thinned(_numbered(blocks, len(frame)), max_blocks), times)
        return cls(binning, tuple(made), whole, _shares(kinds, importance or {}))

    def merged(self, k: int) -> tuple[WindowProfile, ...]:
        """The blocks merged `k` by `k`, in time order; where they do not divide evenly the oldest are left out."""
        if k < 1:
            raise ValueError(f"Blocks are merged by one or more, not by {k}.")
        first = len(self.blocks) % k
        return tuple(reduce(add, self.blocks[at : at + k]) for at in range(first, len(self.blocks), k))

    def mean_of(self, name: str) -> float:
        """Mean of a number over the reference rows, from the middles of its bins; NaN where no row has one.

        Where one tail is long it is pulled that way, for the outermost bins reach to the extremes: by a tenth for a gamma(2).
        """
        bins = next(one for one in self.binning.features if one.name == name)
        counts = self.whole.counts[self.binning.slice_of(name)][1:-2]
        bounds = np.array([bins.low, *bins.edges, bins.high])
        return float(np.average((bounds[1:] + bounds[:-1]) / 2, weights=counts)) if counts.sum() else float("nan")

    def to_bytes(self) -> bytes:
        """As a compressed ``.npz`` without pickles; equal content gives equal bytes."""
        profiles = (*self.blocks, self.whole)
        features = self.binning.features
        text = _Text(
            _FORMAT,
            [_TextFeature(one.name, one.kind, one.levels, one.singletons) for one in features],
            dict(sorted(self.importance.items())),
        )
        file = io.BytesIO()
        np.savez_compressed(
            file,
            allow_pickle=False,
            text=np.frombuffer(msgspec.json.encode(text), dtype=np.uint8),
            edges=np.array([edge for one in features for edge in one.edges]),
            edge_counts=np.array([len(one.edges) for one in features], dtype=np.int64),
            bounds=np.array([(one.low, one.high) for one in features]).reshape(len(features), 2),
            rows=np.array([one.rows for one in profiles], dtype=np.int64),
            # cell by cell, where neighbours are alike, and in as few bytes as the blocks need: a third of the size
            counts=_narrow(np.array([one.counts for one in self.blocks], dtype=np.int64).T),
            counts_whole=self.whole.counts,
            minimum=np.array([one.minimum for one in profiles]).T,
            maximum=np.array([one.maximum for one in profiles]).T,
            phase=np.array([one.phase for one in profiles]),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises
        ------
        ValueError
            If the bytes hold no reference profile that this version reads.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            text = msgspec.json.decode(arrays["text"].tobytes(), type=_Text)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(
                f"These {len(data)} bytes are no reference profile ({error}): train the model again."
            ) from error
        if text.format != _FORMAT:
            raise ValueError(
                f"The reference profile has format {text.format}, and {_FORMAT} is read here: train the model again."
            )
        edges = np.split(arrays["edges"], np.cumsum(arrays["edge_counts"])[:-1])
        binning = Binning(
            tuple(
                FeatureBins(
                    one.name, one.kind, tuple(own.tolist()), float(low), float(high), one.levels, one.singletons
                )
                for one, own, (low, high) in zip(text.features, edges, arrays["bounds"], strict=True)
            )
        )
        counts = [*np.ascontiguousarray(arrays["counts"].T, dtype=np.int64), arrays["counts_whole"]]
        minimum, maximum = np.ascontiguousarray(arrays["minimum"].T), np.ascontiguousarray(arrays["maximum"].T)
        parts = zip(arrays["rows"].tolist(), counts, minimum, maximum, arrays["phase"], strict=True)
        *blocks, whole = (WindowProfile(*part) for part in parts)
        return cls(binning, tuple(blocks), whole, text.importance)


def spread(blocks: int, most: int = MAX_BLOCKS) -> Ints:
    """New place of each of so many blocks, (blocks,), and -1 for those that are left out where there are more than `most`.

    Runs of eight, over which windows are pooled, stay together; they lie evenly over all blocks, the first and the last
    included, since a season that is left out comes as a surprise.
    """
    if blocks <= most:
        return np.arange(blocks)
    runs = most // _RUN
    first = np.round(np.linspace(0, blocks - _RUN, runs)).astype(np.int64) if runs else np.zeros(0, dtype=np.int64)
    kept = np.zeros(blocks, dtype=np.bool_)
    kept[(first[:, None] + np.arange(_RUN)).ravel()] = True
    # what does not fill a run, and what overlapping runs share, is filled with the newest that are left
    left = np.flatnonzero(~kept)
    kept[left[len(left) - (most - int(kept.sum())) :]] = True
    return np.where(kept, np.cumsum(kept) - 1, -1)


class _TextFeature(msgspec.Struct, frozen=True):
    name: str
    kind: Kind
    levels: tuple[str, ...]
    singletons: int


class _Text(msgspec.Struct, frozen=True):
    format: int
    features: list[_TextFeature]
    importance: dict[str, float]


def _numbered(blocks: ArrayLike | int, rows: int) -> Ints:
    """Number of each row's block in time order, -1 for none."""
    if isinstance(blocks, int | np.integer):
        if blocks < 1:
            raise ValueError(f"A block has one row or more, not {blocks}.")
        numbers = np.arange(rows) // blocks
        return np.where(numbers < rows // blocks, numbers, -1)
    keys = np.asarray(blocks)
    if keys.shape != (rows,):
        raise ValueError(
            f"There are {rows} reference rows, but block keys of shape {keys.shape}: give each row its key."
        )
    return np.asarray(pd.factorize(keys)[0], dtype=np.int64)


def _thinned(numbers: Ints, most: int) -> Ints:
    places = np.append(spread(int(numbers.max(initial=-1)) + 1, most), -1)
    return np.asarray(places[numbers])


def _shares(kinds: Mapping[str, Kind], importance: Mapping[str, float]) -> dict[str, float]:
    weights = {name: max(float(importance.get(name, 0.0)), 0.0) for name in kinds}
    total = sum(weights.values())
    return {name: weight / total if total > 0 else 1 / len(weights) for name, weight in weights.items()}


def _narrow(counts: Ints) -> np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]:
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))
