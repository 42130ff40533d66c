"""How fast `mlops-assets batch` scores a table of millions of rows, and in how much memory, against the usual way of doing it.

The usual way: the fitted scikit-learn pipeline over the same Parquet file, in chunks of the same size. It gives a probability and a
prediction a row; ours holds each row against the contract too, sets aside what cannot be scored, and says what was missing or new.

Run: ``make bench-batch``
"""

import math
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import Measured, Work, measured, save, table
from benchmarks.serving_state import MODEL, ServingState, prepared
from mlops_assets.operations.batch import PART_ROWS, score_table
from mlops_assets.operations.models import declared_models
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.home import Home

NAME: Final = "batch_scoring"
ROWS: Final = 2_000_000
ROUNDS: Final = 3
# A table of this share of the rows, to see what memory has to do with how many there are.
SMALL: Final = 0.1
DAYS: Final = 60
_WHO: Final = {
    "ours": "`mlops-assets batch`",
    "sklearn": "the scikit-learn pipeline, in chunks",
    "ours_small": "ours, a tenth of the rows",
}


@dataclass(frozen=True)
class Scored:
    """What one way of scoring a table took."""

    rows: int
    seconds: float
    cpu_us: float
    extra_mb: float
    peak_mb: float

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds


def main(rows: int = ROWS, rounds: int = ROUNDS) -> None:
    """Measure, print the table and write the figures."""
    state = prepared()
    folder = state.folder / "batch"
    source, small = _flights(state, folder, rows), _flights(state, folder, math.ceil(rows * SMALL))
    home = state.home("batch")
    ours = {"declared": str(state.ground.declared), "home": str(home.root)}
    peer = {"pipeline": str(state.pipeline), "features": list(state.spec.feature_names)}
    runs: dict[str, list[Scored]] = {who: [] for who in _WHO}
    for _ in range(rounds):
        runs["ours"].append(_run("ours", source, **ours))
        runs["sklearn"].append(_run("sklearn", source, **peer))
        runs["ours_small"].append(_run("ours", small, **ours))
        _require_same_answers(folder, rows)
    found = {who: _middle(each) for who, each in runs.items()}
    mine, theirs, less = found.values()
    table(
        f"{rows:,} rows of {MODEL}, {PART_ROWS:,} at a time",
        ["", "rows/s", "CPU µs a row", "memory above the start, MB", "peak, MB"],
        [[_WHO[who], one.rows_per_s, one.cpu_us, one.extra_mb, one.peak_mb] for who, one in found.items()],
    )
    figures: dict[str, float | int | None] = {
        "rows": rows,
        "part_rows": PART_ROWS,
        **{f"{what}_{who}": getattr(one, what) for who, one in found.items() for what in _TOLD},
        "rows_per_s_ratio": mine.rows_per_s / theirs.rows_per_s,
        "cpu_ratio": theirs.cpu_us / mine.cpu_us,
        "peak_ratio": theirs.peak_mb / mine.peak_mb,
        "peak_growth_pct": 100 * (mine.peak_mb / less.peak_mb - 1),
    }
    table(
        "Ratios",
        ["", ""],
        [
            ["rows a second, ours over theirs", figures["rows_per_s_ratio"]],
            ["CPU a row, theirs over ours", figures["cpu_ratio"]],
            ["peak memory, theirs over ours", figures["peak_ratio"]],
            ["peak memory with ten times as many rows, % more", figures["peak_growth_pct"]],
        ],
    )
    save(NAME, figures)


_TOLD: Final = ("rows_per_s", "cpu_us", "extra_mb", "peak_mb")


def ours(source: str, output: str, declared: str, home: str) -> Work:
    """`mlops-assets batch` but for its start."""
    spec, stores = declared_models(Path(declared))[MODEL], Stores(Home(Path(home)))

    def work() -> dict[str, float]:
        began = time.process_time()
        done = score_table(spec, stores, source, output)
        if done.quarantined:
            raise AssertionError(f"{done.quarantined} of {done.rows} rows were set aside: {done.reasons}")
        return {"rows": done.rows, "cpu_s": time.process_time() - began}

    return work


def sklearn(source: str, output: str, pipeline: str, features: list[str]) -> Work:
    """What a data scientist writes: read a chunk, predict, write it."""
    import joblib

    fitted = joblib.load(pipeline)
    schema = pa.schema([("id", pa.string()), ("prediction", pa.int64()), ("probability", pa.float64())])

    def work() -> dict[str, float]:
        began, rows = time.process_time(), 0
        with pq.ParquetWriter(output, schema, compression="zstd") as writer:
            for batch in pq.ParquetFile(source).iter_batches(PART_ROWS, columns=["id", *features]):
                frame = batch.to_pandas()
                late = fitted.predict_proba(frame[features])[:, 1]
                columns = {"id": batch["id"], "prediction": (late >= 0.5).astype(np.int64), "probability": late}
                writer.write_table(pa.table(columns, schema=schema))
                rows += len(frame)
        return {"rows": rows, "cpu_s": time.process_time() - began}

    return work


def _run(who: str, source: Path, **options: Any) -> Scored:
    output = str(source.with_name(f"{source.stem}-{who}.parquet"))
    done: Measured = measured(f"benchmarks.batch_scoring:{who}", 1, source=str(source), output=output, **options)
    rows, cpu_us = done.answer["rows"], done.answer["cpu_s"] * 1e6 / done.answer["rows"]
    return Scored(rows, done.seconds[0], cpu_us, done.extra_mb, done.peak_mb)


def _middle(runs: list[Scored]) -> Scored:
    middles = {what: statistics.median(getattr(run, what) for run in runs) for what in ("seconds", *_TOLD[1:])}
    return Scored(rows=runs[0].rows, **middles)


def _flights(state: ServingState, folder: Path, rows: int) -> Path:
    """A Parquet file of so many rows: two months of real flights, again and again, each with an id of its own."""
    path = folder / f"flights-{rows}.parquet"
    if path.exists():
        return path
    from mlops_assets.operations.traffic import live_rows

    spec = state.spec
    with state.ground.environment():
        flights = live_rows(spec, spec.live_from, spec.live_from + timedelta(days=DAYS))
    flights = flights[[spec.entity_key, spec.event_time, *spec.feature_names]]
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    writer: pq.ParquetWriter | None = None
    for first in range(0, rows, len(flights)):
        part: pd.DataFrame = flights.head(rows - first)
        part = part.assign(id=[f"flight-{first + row}" for row in range(len(part))])
        written = pa.Table.from_pandas(part, preserve_index=False)
        writer = writer or pq.ParquetWriter(unfinished, written.schema)
        writer.write_table(written, row_group_size=2 * PART_ROWS)
    assert writer is not None
    writer.close()
    unfinished.rename(path)
    return path


def _require_same_answers(folder: Path, rows: int) -> None:
    """Both have given every row the same probability, to what two orders of summing differ by."""
    ours, theirs = (
        pq.read_table(folder / f"flights-{rows}-{who}.parquet", columns=["id", "probability"])
        for who in ("ours", "sklearn")
    )
    apart = np.abs(ours["probability"].to_numpy() - theirs["probability"].to_numpy()).max()
    if not ours["id"].equals(theirs["id"]) or not apart <= 1e-12:
        raise AssertionError(f"the answers of the two are {apart} apart")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
