"""Live traffic: sealed log segments are taken into the lake, and each window of event time becomes one table, labels included.

Whatever interrupts it, doing it again gives the same tables; so do replays, records sent twice, and labels before predictions.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.core.live_traffic import LABEL, TIME, LiveWindow, combine, summary, window_table
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.ingestion import QUARANTINE, TABLES, Ingestion
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.files import locked, make_folder
from mlops_assets.stores.prediction_log import LogError
from mlops_assets.stores.traffic import EMPTY, TrafficStore, content_of


@dataclass(frozen=True)
class Ingested:
    """What one model's ingestion read. `finished` says whether nothing is left to read."""

    segments: int
    records: int
    windows: tuple[str, ...]
    quarantined: int
    finished: bool


def ingest(stores: Stores, specs: Sequence[ModelSpec], *, budget_s: float | None = None) -> dict[str, Ingested]:
    """Take everything that is sealed, and what dead workers have left, into the lake. Each segment is read once.

    Parameters
    ----------
    budget_s
        Seconds after which no further segment is begun; a model that another process is busy with is then left to that.
        Left out: everything, and waiting for others.

    Returns
    -------
    by_model
        What was read of each model.

    Raises
    ------
    LogError
        When a segment is of another format or cannot be sealed; all others have been taken by then.
    """
    deadline = None if budget_s is None else time.monotonic() + budget_s
    problems: list[LogError] = []
    try:
        stores.log.recover()
    except LogError as error:
        problems.append(error)
    ingested = {}
    for spec in specs:
        with _alone(stores, f"ingest-{spec.name}", wait=budget_s is None) as alone:
            ingested[spec.name] = (
                _ingest(spec, stores, deadline, problems) if alone else Ingested(0, 0, (), 0, finished=False)
            )
    if problems:
        raise problems[0]
    return ingested


def stale_windows(spec: ModelSpec, stores: Stores) -> dict[str, str]:
    """The windows whose table is not what has been ingested, oldest first, each with its new content.

    Among them those from the first to the newest with traffic in which no traffic came at all: their content is "empty". A window
    that is not over yet is none of them: half a day says nothing of a day.
    """
    contents = TrafficStore(stores.lake, spec.name).contents()
    busy = [window for window, content in contents.items() if content.predictions]
    if not busy:
        return {}
    made = {window: one.content for window, one in live_windows(spec, stores).items()}
    calendar, now = Windows.of(spec), datetime.now(UTC)
    due = {
        window: contents[window].content if window in contents else EMPTY
        for window in calendar.between(min(busy), max(busy))
        if calendar.bounds(window)[1] <= now
    }
    return {window: content for window, content in due.items() if made.get(window) != content}


def compact(spec: ModelSpec, stores: Stores, window: str) -> LiveWindow:
    """Make the table of one window from what has been ingested. The same records give the same table.

    Raises
    ------
    ValueError
        For what is no window of the model's calendar.
    """
    calendar = Windows.of(spec)
    calendar.bounds(window)
    if not calendar.holds(window):
        raise ValueError(
            f"{spec.name} has no window {window!r}: the first is {calendar.first}, the end {calendar.until}"
        )
    traffic = TrafficStore(stores.lake, spec.name)
    with locked(_lock(stores, f"compact-{spec.name}")):
        predictions, labels = traffic.parts("predictions", window), traffic.parts("labels", window)
        content = content_of(predictions, labels).content
        rows = combine([traffic.read_part("predictions", window, part) for part in predictions])
        truths = combine([traffic.read_part("labels", window, part) for part in labels], LABEL)
        table = window_table(spec, rows, truths)
        about = summary(window, content, table)
        stores.lake.write_arrow(spec.name, f"{TABLES}/{window}", table, msgspec.to_builtins(about))
    return about


def live_windows(spec: ModelSpec, stores: Stores) -> dict[str, LiveWindow]:
    """What is said of every table there is, oldest window first."""
    known = {}
    for window, stamp in sorted(stores.lake.stamps(spec.name, TABLES).items()):
        key = window_path(spec, stores, window)
        if key not in _seen or _seen[key][0] != stamp:
            _seen[key] = stamp, live_window(spec, stores, window)
        known[window] = _seen[key][1]
    return known


def live_window(spec: ModelSpec, stores: Stores, window: str) -> LiveWindow:
    """What is said of one window's table. FileNotFoundError tells what to materialise."""
    return msgspec.convert(stores.lake.read_attrs(spec.name, f"{TABLES}/{window}"), LiveWindow)


def read_window(spec: ModelSpec, stores: Stores, window: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table of one window, or some of its columns. FileNotFoundError tells what to materialise."""
    frame: pd.DataFrame = stores.lake.read_arrow(spec.name, f"{TABLES}/{window}", columns).to_pandas()
    return frame


def window_path(spec: ModelSpec, stores: Stores, window: str) -> str:
    """Where the table of one window lies, or would."""
    return stores.lake.table_path(spec.name, f"{TABLES}/{window}")


def newest_window(spec: ModelSpec, stores: Stores) -> LiveWindow | None:
    """What is said of the newest window with requests; None where there is none yet."""
    return next((one for one in reversed(live_windows(spec, stores).values()) if one.rows), None)


def quarantined_since(spec: ModelSpec, stores: Stores, since: datetime | None = None) -> pd.DataFrame:
    """What was logged from then on and could not be read, or belongs to no window.

    Returns
    -------
    frame
        `segment`, `offset` of damaged bytes, `at` (when it was served or received; of damaged bytes when the segment was begun),
        `event_time`, `id`, `reason`, and `content`: the bytes. Ordered by segment.
    """
    kept = combine(list(TrafficStore(stores.lake, spec.name).quarantine()), QUARANTINE)
    if since is not None:
        kept = kept.filter(pc.greater_equal(kept["at"], pa.scalar(since, TIME)))
    frame: pd.DataFrame = kept.to_pandas()
    return frame


def _ingest(spec: ModelSpec, stores: Stores, deadline: float | None, problems: list[LogError]) -> Ingested:
    ingestion = Ingestion(spec, stores)
    waiting = ingestion.waiting()
    left = len(waiting)
    for segment in waiting:
        try:
            ingestion.take(segment)
            left -= 1
        except LogError as error:
            problems.append(error)
        if ingestion.full:
            ingestion.settle()
        if deadline is not None and time.monotonic() > deadline:
            break
    ingestion.settle()
    return Ingested(
        ingestion.segments, ingestion.records, tuple(sorted(ingestion.windows)), ingestion.quarantined, left == 0
    )


_seen: dict[
    str, tuple[str, LiveWindow]
] = {}  # reading every table's footer at every look would take seconds for a year of hours


@contextmanager
def _alone(stores: Stores, name: str, *, wait: bool) -> Iterator[bool]:
    """Hold a lock against other processes and threads, or say that it is held by another."""
    descriptor = os.open(_lock(stores, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _lock(stores: Stores, name: str) -> Path:
    make_folder(stores.home.root)
    return stores.home.root / f".{name}.lock"
