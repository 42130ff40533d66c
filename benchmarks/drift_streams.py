"""The streams of windows that drift detectors are tried on: independent rows, calm order, real order; and faults put into them.

Rows are counted in pieces of 100 consecutive rows of a stream's source; windows are sums of pieces, so that thousands cost little.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.common import SEED
from benchmarks.data import Data, census, flights, wheel_folder
from mlops_assets.core.monitoring.drift import WindowTable
from mlops_assets.core.monitoring.groups import profile_groups
from mlops_assets.core.monitoring.profile import Binning, WindowProfile
from mlops_assets.core.monitoring.reference import ReferenceProfile, spread

Mode = Literal["iid", "calm", "order"]
Rows = NDArray[np.int64]

PIECE: Final = 100
FOLDS: Final = 5
SHIFTS: Final = ("shift10", "shift25", "category5", "missing5", "new1")


@dataclass(frozen=True)
class Source:
    """Rows with what is shifted in them, and the blocks (weeks) that calm streams are resampled from.

    Attributes
    ----------
    calm
        (n,) number of the block of each row, -1 for rows that calm streams do not use.
    split
        In real order, the rows before it are the reference.
    """

    data: Data
    number: str
    category: str
    calm: Rows
    split: int


def flight_source() -> Source:
    """Weeks of 2013 without its first and last day: on the one no delays are known yet, on the other the weather feed is dead."""
    data = flights()
    local = data.times.dt.tz_convert("America/New_York")
    week = pd.factorize(local.dt.strftime("%G-%V"))[0].astype(np.int64)
    edge = local.dt.strftime("%m-%d").isin(["01-01", "12-31"]).to_numpy()
    return Source(data, "humid", "origin", np.where(edge, -1, week), int((local.dt.month < 7).sum()))


def census_source() -> Source:
    """Blocks of 5,000 neighbouring rows (neighbours are of one household, district and year); the reference in order is 2015."""
    data = census()
    return Source(data, "AGEP", "MAR", np.arange(len(data.frame)) // 5_000, 68_785)


def car_loan_source() -> Source:
    """Held out: NannyML's made-up car loans, of which the reference part is calm and the second half of the other drifts."""
    folder = wheel_folder("nannyml") / "datasets" / "data"
    parts = [pd.read_csv(folder / f"synthetic_car_loan_{part}.csv") for part in ("reference", "analysis")]
    numbers = ["car_value", "debt_to_income_ratio", "loan_length", "driver_tenure"]
    texts = ["salary_range", "repaid_loan_on_prev_car", "size_of_downpayment"]
    frame = pd.concat(parts, ignore_index=True)[[*numbers, *texts]]
    frame[numbers] = frame[numbers].astype("float64")
    frame[texts] = frame[texts].astype(str)
    data = Data("carloan", frame, {**dict.fromkeys(numbers, "number"), **dict.fromkeys(texts, "category")}, None, None)
    blocks = np.arange(len(frame)) // 10_000
    split = len(parts[0])
    return Source(data, "car_value", "salary_range", np.where(np.arange(len(frame)) < split, blocks, -1), split)


@dataclass(frozen=True)
class Split:
    """Reference rows and the rows that windows are drawn from, no row in both; both in the order in which they are used."""

    reference: Rows
    stream: Rows
    blocks: Rows  # of each stream row: the block it is resampled with; all rows of their own for iid and order


def splits(source: Source, mode: Mode) -> Iterator[Split]:
    """One half against the other at random, every fold of blocks against the others, or the past against the future."""
    random = np.random.default_rng(SEED)
    rows = np.arange(len(source.calm))
    if mode == "iid":
        drawn = random.permutation(rows)
        half = len(rows) // 2
        yield Split(drawn[:half], drawn[half:], np.zeros(len(rows) - half, dtype=np.int64))
    elif mode == "order":
        yield Split(rows[: source.split], rows[source.split :], np.zeros(len(rows) - source.split, dtype=np.int64))
    else:
        numbers = random.permutation(np.unique(source.calm[source.calm >= 0]))
        for fold in np.array_split(numbers, FOLDS):
            mine = np.isin(source.calm, fold)
            yield Split(rows[(source.calm >= 0) & ~mine], rows[mine], source.calm[mine])


class Pieces:
    """Rows counted by pieces, which merge into windows by adding."""

    def __init__(self, binning: Binning, data: Data, frame: pd.DataFrame, rows: Rows, blocks: Rows) -> None:
        starts = np.flatnonzero(np.diff(blocks, prepend=-1))
        within = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
        size = np.repeat(np.diff(np.append(starts, len(rows))), np.diff(np.append(starts, len(rows))))
        whole = within < size // PIECE * PIECE
        number = np.cumsum((within % PIECE == 0) & whole) - 1
        self.rows = rows[whole]
        self.block = blocks[whole][::PIECE]
        times = None if data.times is None else data.times.iloc[rows].reset_index(drop=True)
        profiles = profile_groups(binning, frame, np.where(whole, number, -1), times)
        self.table = WindowTable.of(profiles, binning)

    def windows(self, order: Rows, pieces: int) -> WindowTable:
        """Windows of so many pieces each, from pieces in the given order."""
        count = len(order) // pieces
        tables = []
        for part in np.array_split(np.arange(count), max(count * pieces // 20_000, 1)):
            picked = order[part[0] * pieces : (part[-1] + 1) * pieces].reshape(len(part), pieces)
            each = self.table
            tables.append(
                WindowTable(
                    np.full(len(part), float(pieces * PIECE)),
                    each.counts[picked].sum(axis=1),
                    each.minimum[picked].min(axis=1),
                    each.maximum[picked].max(axis=1),
                    each.phase[picked].sum(axis=1),
                )
            )
        return WindowTable(*(np.concatenate([getattr(one, name) for one in tables]) for name in tables[0].__dict__))

    def order(self, mode: Mode, length: int, size: int, random: np.random.Generator) -> Rows:
        """Numbers of pieces of a stream so long: shuffled, blocks shuffled, or as they come (once).

        No window of `size` pieces lies across two blocks: half of March and half of December is no window that could come.
        Within its block it begins anywhere.
        """
        numbers = np.arange(len(self.block))
        if mode == "order":
            return numbers[:length]
        if mode == "calm" and np.bincount(self.block).max() < size:
            raise ValueError(f"no block is as long as a window of {size} pieces")
        found: list[Rows] = []
        while sum(map(len, found)) < length:
            if mode == "iid":
                found.append(random.permutation(numbers))
            else:
                for block in random.permutation(np.unique(self.block)):
                    mine = numbers[self.block == block]
                    first = int(random.integers(0, len(mine) % size + 1))
                    found.append(mine[first : first + (len(mine) - first) // size * size])
        return np.concatenate(found)[:length]


def reference_of(binning: Binning, pieces: Pieces, size: int) -> ReferenceProfile:
    """The reference with blocks of the window's size."""
    table = pieces.windows(np.arange(len(pieces.block)), size)
    kept = spread(len(table.rows)) >= 0
    columns = (column[kept] for column in (table.rows, table.counts, table.minimum, table.maximum, table.phase))
    blocks = tuple(WindowProfile(int(rows), *rest) for rows, *rest in zip(*columns, strict=True))
    whole = pieces.windows(np.arange(len(pieces.block)), len(pieces.block))
    total = WindowProfile(int(whole.rows[0]), whole.counts[0], whole.minimum[0], whole.maximum[0], whole.phase[0])
    names = [one.name for one in binning.features]
    return ReferenceProfile(binning, blocks, total, dict.fromkeys(names, 1 / len(names)))


def shifted(frame: pd.DataFrame, source: Source, shift: str, random: np.random.Generator) -> pd.DataFrame:
    """Put one fault into every row's number or category.

    ``shift10``, ``shift25``: the number moves up by .1 or .25 of its standard deviation; ``category5``: of all rows, 5 points go
    from the commonest level to the next; ``missing5``: the number is missing in 5 points more of the rows; ``new1``: 1 % have
    a new level.
    """
    whole, frame = source.data.frame, frame.copy()
    if shift in ("shift10", "shift25"):
        frame[source.number] += float(shift.removeprefix("shift")) / 100 * whole[source.number].std()
    elif shift == "missing5":
        frame.loc[random.random(len(frame)) < 0.05, source.number] = np.nan
    elif shift == "new1":
        frame.loc[random.random(len(frame)) < 0.01, source.category] = "new"
    else:
        first, second = whole[source.category].value_counts(normalize=True).index[:2]
        common = (frame[source.category] == first).to_numpy()
        frame.loc[common & (random.random(len(frame)) < 0.05 / common.mean()), source.category] = second
    return frame
