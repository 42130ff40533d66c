"""False alarms and delay of drift detectors, on flights, the census and held-out data: `python -m benchmarks.drift_detection`.

An alarm is a window in which any feature alarms. The reference and the rows that windows are drawn from are disjoint:

iid
    half of the rows, at random, against the other half: nothing drifts by construction.
calm
    whole weeks (census: 5,000 neighbouring rows) are left out of the reference in five folds, and streams are made of them in
    random order, no window across two of them: windows are as autocorrelated as the reference's blocks, and none of them is meant
    to drift. Weeks are used again and again, so that the intervals, which take windows for independent, are too narrow there. Of
    5,000 rows a week holds one window, so that neighbours there are of different weeks: what must last to alarm seldom does.
order
    the past (flights: January to June, census: 2015) against the future, as it came: changes there are real, alarms seldom false.

Delays are in windows until the first alarm after the shift began, at most 21 (never); ours sees eight windows from before it.
The car-loan data were not looked at while the rules were chosen. Windows of ours: 5,000 (in real order all there are); peers': 200.
"""

import argparse
import functools
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.common import RESULTS, SEED, save, table
from benchmarks.drift_peers import Alarms, evidently_alarms, nannyml_alarms
from benchmarks.drift_streams import (
    PIECE,
    SHIFTS,
    Mode,
    Pieces,
    Source,
    Split,
    car_loan_source,
    census_source,
    flight_source,
    reference_of,
    shifted,
    splits,
)
from mlops_assets.core.monitoring.drift import DriftDetector
from mlops_assets.core.monitoring.profile import Binning

SIZES: Final = (500, 1_000, 5_000)
SOURCES: Final[dict[str, Callable[[], Source]]] = {
    "flights": flight_source,
    "census": census_source,
    "carloan": car_loan_source,
}
MODES: Final[tuple[Mode, ...]] = ("iid", "calm", "order")
OURS, PEERS = 5_000, 200  # windows
BEFORE, LONGEST, STREAMS = 8, 20, 60
PEER_STREAMS: Final = {"nannyml": 2, "evidently": 1}
PEER: Final[dict[str, Callable[[pd.DataFrame, pd.DataFrame, int], Alarms]]] = {
    "nannyml": nannyml_alarms,
    "evidently": evidently_alarms,
}

Cell = tuple[str, str, str, int, int, int]  # who, data, mode, rows, alarms, windows
Delay = tuple[str, str, str, str, int, float]  # who, data, mode, shift, rows, windows


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--ours-only", action="store_true", help="leave the peers out")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    began = time.perf_counter()
    cells: list[Cell] = []
    delays: list[Delay] = []
    whos = ("ours",) if options.ours_only else ("ours", *PEER)
    tasks = [(who, name, mode) for who in whos for mode in MODES for name in options.data]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for part, late in pool.imap_unordered(measure, tasks):
            cells += part
            delays += late
            # what is done is kept, whatever comes of the rest
            written = save("drift_detection", {**earlier("drift_detection"), **figures_of(part, late)})
    order = {name: place for place, name in enumerate((*options.data, *MODES))}
    show(*(sorted(found, key=lambda one: (order[one[1]], order[one[2]])) for found in (cells, delays)))
    minutes = (time.perf_counter() - began) / 60
    save("drift_detection", {**earlier("drift_detection"), "minutes": minutes})
    print(f"written to {written}; {minutes:.1f} minutes, {options.processes} processes")  # noqa: T201


def figures_of(cells: list[Cell], delays: list[Delay]) -> dict[str, float | int | None]:
    """The figures by their names in the file."""
    figures: dict[str, float | int | None] = {}
    for who, data, mode, rows, alarms, windows in cells:
        kind = "alarm_pct" if mode == "order" else "false_alarm_pct"
        figures[f"{prefix(who)}{kind}_{data}_{mode}_{rows}"] = 100 * alarms / windows
        figures[f"{prefix(who)}windows_{data}_{mode}_{rows}"] = windows
    for who, data, mode, shift, rows, delay in delays:
        figures[f"{prefix(who)}{'calm_' if mode == 'calm' else ''}delay_{data}_{shift}_{rows}"] = delay
    return figures


def earlier(name: str) -> dict[str, float | int | None]:
    """Figures of earlier runs, which stay where a run measures a part only."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def prefix(who: str) -> str:
    """What the names of a peer's figures begin with."""
    return "" if who == "ours" else f"{who}_"


def measure(task: tuple[str, str, Mode]) -> tuple[list[Cell], list[Delay]]:
    """What one of us finds in one data set and one kind of stream."""
    who, name, mode = task
    source = _source(name)
    parts = list(splits(source, mode))
    if who == "ours":
        return list(ours(source, mode, parts)), [] if mode == "order" else list(our_delays(source, mode, parts))
    return list(peers(who, source, mode, parts[0])), list(peer_delays(who, source, parts[0])) if mode == "iid" else []


@functools.cache
def _source(name: str) -> Source:
    return SOURCES[name]()


def ours(source: Source, mode: Mode, parts: list[Split]) -> Iterator[Cell]:
    """Alarms of the detector in windows of every size."""
    alarms, windows = dict.fromkeys(SIZES, 0), dict.fromkeys(SIZES, 0)
    for number, part in enumerate(parts):
        random = np.random.default_rng([SEED, number])
        binning, reference, stream = counted(source, part)
        for rows in SIZES:
            size = rows // PIECE
            detector = DriftDetector(reference_of(binning, reference, size))
            order = stream.order(mode, OURS // len(parts) * size, size, random)
            found = detector.scan(stream.windows(order, size)).alarm.any(axis=1)
            alarms[rows] += int(found.sum())
            windows[rows] += len(found)
    for rows in SIZES:
        yield "ours", source.data.name, mode, rows, alarms[rows], windows[rows]


def our_delays(source: Source, mode: Mode, parts: list[Split]) -> Iterator[Delay]:
    """Mean delay over streams that have eight windows as ever and then twenty that are shifted."""
    found: dict[tuple[str, int], list[float]] = {}
    for number, part in enumerate(parts):
        binning, reference, stream = counted(source, part)
        rows_of = {rows: DriftDetector(reference_of(binning, reference, rows // PIECE)) for rows in SIZES}
        for shift in SHIFTS:
            random = np.random.default_rng([SEED, number, SHIFTS.index(shift)])
            frame = source.data.features.iloc[part.stream].reset_index(drop=True)
            after = Pieces(binning, source.data, shifted(frame, source, shift, random), part.stream, part.blocks)
            for rows, detector in rows_of.items():
                size, each = rows // PIECE, BEFORE + LONGEST
                order = stream.order(mode, STREAMS // len(parts) * each * size, size, random)
                clean, faulty = stream.windows(order, size), after.windows(order, size)
                late = np.arange(len(clean.rows)) % each >= BEFORE
                mixed = type(clean)(
                    *(
                        np.where(late[(...,) + (None,) * (one.ndim - 1)], other, one)
                        for one, other in zip(clean.__dict__.values(), faulty.__dict__.values(), strict=True)
                    )
                )
                alarms = detector.scan(mixed).alarm.any(axis=1).reshape(-1, each)[:, BEFORE:]
                found.setdefault((shift, rows), []).extend(delays_of(alarms))
    for (shift, rows), values in found.items():
        yield "ours", source.data.name, mode, shift, rows, float(np.mean(values))


def peers(who: str, source: Source, mode: Mode, part: Split) -> Iterator[Cell]:
    """Alarms of a peer in 200 windows of every size (in real order in all there are), from the first split."""
    frame = source.data.features
    for rows in SIZES:
        stream = drawn(part, mode, PEERS * rows, rows, np.random.default_rng(SEED))
        found = PEER[who](frame.iloc[part.reference], frame.iloc[stream].reset_index(drop=True), rows)
        yield who, source.data.name, mode, rows, int(found.sum()), len(found)


def peer_delays(who: str, source: Source, part: Split) -> Iterator[Delay]:
    """The same of a peer on independent rows, with fewer streams."""
    frame = source.data.features
    for rows in SIZES:
        faulty = []
        for shift in SHIFTS:
            random = np.random.default_rng([SEED, SHIFTS.index(shift)])
            stream = drawn(part, "iid", PEER_STREAMS[who] * LONGEST * rows, rows, random)
            faulty.append(shifted(frame.iloc[stream].reset_index(drop=True), source, shift, random))
        # one stream after the other, since it takes longer to fit than to judge
        found = PEER[who](frame.iloc[part.reference], pd.concat(faulty, ignore_index=True), rows)
        for shift, alarms in zip(SHIFTS, np.split(found, len(SHIFTS)), strict=True):
            yield who, source.data.name, "iid", shift, rows, float(np.mean(delays_of(alarms.reshape(-1, LONGEST))))


def drawn(part: Split, mode: Mode, length: int, size: int, random: np.random.Generator) -> np.ndarray:
    """Row numbers of a stream so long (in real order of all of it), as `Pieces.order` draws them."""
    if mode == "order":
        return part.stream
    found: list[np.ndarray] = []
    while sum(map(len, found)) < length:
        if mode == "iid":
            found.append(random.permutation(part.stream))
        else:
            for block in random.permutation(np.unique(part.blocks)):
                mine = part.stream[part.blocks == block]
                found.append(mine[: len(mine) // size * size])
    return np.concatenate(found)[:length]


def counted(source: Source, part: Split) -> tuple[Binning, Pieces, Pieces]:
    """The binning of the reference rows, and the counts of both."""
    frame = source.data.features
    before, later = (frame.iloc[rows].reset_index(drop=True) for rows in (part.reference, part.stream))
    binning = Binning.of(before, source.data.kinds)
    unbroken = np.zeros(len(part.reference), dtype=np.int64)
    return (
        binning,
        Pieces(binning, source.data, before, part.reference, unbroken),
        Pieces(binning, source.data, later, part.stream, part.blocks),
    )


def delays_of(alarms: Alarms) -> list[float]:
    """Windows until the first alarm of each stream, (streams, windows); 21 where there is none."""
    return [float(np.argmax(stream)) + 1 if stream.any() else LONGEST + 1.0 for stream in alarms]


def interval(alarms: int, windows: int) -> str:
    """Alarms in percent with the 95 % interval of Clopper and Pearson (1934)."""
    low, high = stats.binomtest(alarms, windows).proportion_ci(0.95, method="exact")
    return f"{100 * alarms / windows:.2f} ({100 * low:.2f}–{100 * high:.2f})"


def show(cells: list[Cell], delays: list[Delay]) -> None:
    """Print both tables."""
    whos = ("ours", *PEER)
    by_cell = {cell[:4]: interval(*cell[4:]) + f" of {cell[5]}" for cell in cells}
    keys = list(dict.fromkeys(cell[1:4] for cell in cells))
    table(
        "windows with an alarm, % (95 % interval)",
        ("data, stream, rows a window", *whos),
        [
            (f"{data} {mode} {rows}", *(by_cell.get((who, data, mode, rows)) for who in whos))
            for data, mode, rows in keys
        ],
    )
    by_delay = {delay[:5]: delay[5] for delay in delays}
    rows_of = list(dict.fromkeys(delay[1:5] for delay in delays))
    table(
        f"mean delay, windows (21 = never), over {STREAMS} streams; peers over {PEER_STREAMS}",
        ("data, stream, shift, rows a window", *whos),
        [(" ".join(map(str, key)), *(by_delay.get((who, *key)) for who in whos)) for key in rows_of],
    )


if __name__ == "__main__":
    main()
