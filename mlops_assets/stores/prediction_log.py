"""Append-only segments of predictions and labels: one writer per worker process, any number of readers.

A segment's name tells when and by which worker it was started. Its bytes are the business of `log_frames`, the file being
written that of `log_segment`, and turning segments into tables that of `operations`.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from mlops_assets.core.records import LabelRecord, PredictionRecord, Record
from mlops_assets.stores.files import PLAIN_NAME
from mlops_assets.stores.log_frames import (
    VERSION,
    Footer,
    Summary,
    decode,
    foreign_version,
    framed_batch,
    frames,
    last_footer,
)
from mlops_assets.stores.log_search import Limits, Search, search
from mlops_assets.stores.log_segment import OpenSegment, settle, take_over

Durability = Literal["os", "disk"]


class LogError(RuntimeError):
    """Records that could not be written, or a segment that cannot be read."""


class LogWriter:
    """Appends records to one open segment. For one process, made after forking; several threads may call it.

    Parameters
    ----------
    root
        Folder of the log, made if missing.
    worker
        Name of the writing process, part of its segments' names.
    durability
        What `append` waits for: "os", so that records survive the death of the process; or "disk", so that they survive the
        loss of power too.
    max_segment_bytes, max_segment_age_s
        When `rotate_if_due` seals a segment.
    """

    def __init__(
        self,
        root: Path,
        worker: str,
        *,
        durability: Durability = "os",
        max_segment_bytes: int = 64 * 1024 * 1024,
        max_segment_age_s: float = 300,
    ):
        if not PLAIN_NAME.fullmatch(worker):
            raise ValueError(f"{worker!r} cannot name a worker: expected letters, digits, '_', '-' and '.'")
        self.root = root
        self.worker = worker
        self.durable = durability == "disk"
        self.max_segment_bytes = max_segment_bytes
        self.max_segment_age_s = max_segment_age_s
        self._appending = threading.Lock()
        self._sealing = threading.Lock()
        self._closed = False
        self._segment: OpenSegment | None = self._create()

    def append(self, records: Sequence[Record]) -> None:
        """Write records with one system call; when this returns they are as safe as `durability` says.

        All of them are written or none. Raises `LogError` when they could not be (disk full, for one): nothing of them
        stays and the next call works again once there is room. Raises `ValueError` for a time without a time zone.
        """
        if not records:
            return
        content = framed_batch(records)
        with self._appending:
            if self._closed:
                raise LogError(f"the log of {self.worker} in {self.root} is closed")
            if self._segment is None:
                self._segment = self._create()
            try:
                self._segment.append(content, records)
            except OSError as error:
                raise LogError(str(error)) from error

    def rotate_if_due(self) -> None:
        """Seal the segment if it is large or old enough, and go on in a new one.

        Appending goes on meanwhile, so this may be called from another thread while an event loop serves: it waits for the
        disk. Raises `LogError`; no record is lost by that, and one that stayed unsealed is left to `PredictionLog.recover`.
        """
        with self._sealing:
            segment = self._segment
            if segment is None or not segment.summary.records:
                return
            age_s = time.monotonic() - segment.created_s
            if segment.size < self.max_segment_bytes and age_s < self.max_segment_age_s:
                return
            fresh = self._create()
            with self._appending:
                self._segment = fresh
            _seal(segment)

    def seal(self) -> None:
        """Seal the segment now; the next `append` starts a new one. Raises `LogError` as `rotate_if_due` does."""
        with self._sealing:
            with self._appending:
                segment, self._segment = self._segment, None
            if segment is not None:
                _seal(segment)

    def close(self) -> None:
        """Seal, and refuse to append from now on."""
        with self._appending:
            self._closed = True
        self.seal()

    def _create(self) -> OpenSegment:
        try:
            return OpenSegment.create(self.root, self.worker, self.durable)
        except OSError as error:
            raise LogError(f"cannot start a log segment in {self.root}: {error}") from error


@dataclass(frozen=True)
class SegmentInfo:
    """A segment at the time of asking. Times are those of serving a prediction or receiving a label, None when empty."""

    path: Path
    sealed: bool
    bytes: int
    worker: str
    records: int
    first_served_at: datetime | None
    last_served_at: datetime | None


@dataclass(frozen=True)
class Damage:
    """A stretch of a segment that holds no readable record; `bytes` is 0 where whole records are missing."""

    path: Path
    offset: int
    bytes: int
    what: str

    def __str__(self) -> str:
        return f"{self.path} is damaged at offset {self.offset} ({self.bytes} bytes): {self.what}"


class PredictionLog:
    """Reads all segments in one folder, while workers may be writing to it."""

    def __init__(self, root: Path):
        self.root = root

    def recover(self) -> int:
        """Cut the torn tails of segments left open by dead workers, seal them, and return how many were sealed.

        A segment without a record is deleted; one whose writer lives is left alone. Raises `LogError` when a segment
        cannot be sealed (disk full) or is of another format.
        """
        sealed = 0
        for path in self._paths(".open"):
            descriptor = take_over(path)
            if descriptor is None:
                continue
            try:
                content = path.read_bytes()
                _require_version(content, path)
                sealed += settle(descriptor, path, content)
            except OSError as error:
                raise LogError(f"cannot seal {path}: {error}. Its records are still readable") from error
            finally:
                os.close(descriptor)
        return sealed

    def records(
        self, model: str | None = None, *, include_open: bool = True, skipped: list[Damage] | None = None
    ) -> Iterator[Record]:
        """All records, or those of one model: segments in order of their creation, each in the order of appending. One
        segment is held in memory at a time.

        The half-written end of an open segment is passed over. Damage anywhere else raises `LogError` naming file and
        offset; given a list `skipped`, reading resumes at the next whole record and the list says what was left out.
        """
        for path in self._paths(".open", ".sealed") if include_open else self._paths(".sealed"):
            if model is not None and path.suffix == ".sealed":
                summed_up = _summed_up(path)
                if summed_up is not None and model not in summed_up[0].models:
                    continue
            for record in _records(path, skipped):
                if model is None or record.model == model:
                    yield record

    def sealed(self) -> tuple[str, ...]:
        """Names of the sealed segments, in order of their creation. What stands under such a name never changes."""
        return tuple(path.name for path in self._paths(".sealed"))

    def segment(self, name: str, model: str, *, skipped: list[Damage] | None = None) -> Iterator[Record]:
        """One model's records in one sealed segment, in the order of appending; none when the segment is gone.

        Damage is treated as `records` does, but for that of a segment whose footer says that it holds nothing of the model.
        """
        path = self.root / name
        summed_up = _summed_up(path)
        if summed_up is None or model in summed_up[0].models:
            for record in _records(path, skipped):
                if record.model == model:
                    yield record

    def find(self, record_id: str) -> tuple[PredictionRecord, ...]:
        """The predictions with this id, one per role and version, in the order of serving; empty when there is none.

        Looks as `search` does, without limits. Raises `LogError` when its only trace is where nothing can be read.
        """
        searched = self.search(record_id, Limits())
        if searched.unreadable and not searched.records:
            raise LogError(f"the record of {record_id} cannot be read: {searched.unreadable}")
        return searched.records

    def search(self, record_id: str, limits: Limits) -> Search:
        """Look for the predictions with an id in the segments that can hold it, as far as the limits allow."""
        try:
            return search(self._paths(".open", ".sealed"), record_id, limits)
        except OSError as error:
            raise LogError(f"the log in {self.root} cannot be searched: {error}") from error

    def segments(self) -> tuple[SegmentInfo, ...]:
        """All segments in order of their creation. Sealed ones are not read through."""
        return tuple(info for path in self._paths(".open", ".sealed") if (info := _info(path)) is not None)

    def _paths(self, *suffixes: str) -> list[Path]:
        if not self.root.is_dir():
            return []
        # Listed twice, since a file renamed during one listing of a large folder may be missing from it.
        names = {*os.listdir(self.root), *os.listdir(self.root)}
        paths = {name: self.root / name for name in sorted(names) if name.endswith(suffixes)}
        return [path for path in paths.values() if path.suffix == ".sealed" or f"{path.stem}.sealed" not in paths]


_LONGEST_FOOTER = 64 * 1024


def _seal(segment: OpenSegment) -> None:
    try:
        segment.seal()
    except OSError as error:
        raise LogError(f"cannot seal {segment.path}: {error}") from error


def _records(path: Path, skipped: list[Damage] | None) -> Iterator[Record]:
    path, content = _load(path)
    _require_version(content, path)
    sealed = path.suffix == ".sealed"
    footer: Footer | None = None
    records, intact = 0, True
    for offset, payload, stop in frames(content):
        frame = None if payload is None else decode(payload)
        if isinstance(frame, Footer):
            footer = frame
        elif isinstance(frame, PredictionRecord | LabelRecord):
            records += 1
            yield frame
        elif frame is not None or sealed or stop < len(content):
            intact = False
            _report(Damage(path, offset, stop - offset, frame or "no whole record"), skipped)
    if sealed and intact and (footer is None or footer.records > records):
        expected = "an unknown number of" if footer is None else footer.records
        _report(Damage(path, len(content), 0, f"{records} records of {expected} are there"), skipped)


def _info(path: Path) -> SegmentInfo | None:
    """Sealed segments tell by their footer; others, and those whose footer is damaged, are read through."""
    summed_up = _summed_up(path) if path.suffix == ".sealed" else None
    if summed_up is None:
        path, content = _load(path)
        if not content:
            return None
        _require_version(content, path)
        summary = Summary()
        for _, payload, _ in frames(content):
            frame = None if payload is None else decode(payload)
            if isinstance(frame, PredictionRecord | LabelRecord):
                summary.add(frame)
        summed_up = summary.footer(), len(content)
    footer, size = summed_up
    times = (footer.first_served_at, footer.last_served_at) if footer.records else (None, None)
    worker = path.stem.partition("Z-")[2]
    return SegmentInfo(path, path.suffix == ".sealed", size, worker, footer.records, *times)


def _summed_up(path: Path) -> tuple[Footer, int] | None:
    """The last frame and the size in bytes of a sealed segment; None when that frame is not whole."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LONGEST_FOOTER))
            tail = file.read()
    except FileNotFoundError:
        return None
    footer = last_footer(tail)
    return None if footer is None else (footer, size)


def _load(path: Path) -> tuple[Path, bytes]:
    """A segment's path and content now: it may have been sealed, or removed (then empty), since the folder was listed."""
    for candidate in (path, path.with_suffix(".sealed")):
        try:
            return candidate, candidate.read_bytes()
        except FileNotFoundError:
            continue
    return path.with_suffix(".open"), b""


def _require_version(content: bytes, path: Path) -> None:
    version = foreign_version(content)
    if version is not None:
        raise LogError(f"{path} has format {version}, this program reads {VERSION}: install the matching release")


def _report(damage: Damage, skipped: list[Damage] | None) -> None:
    if skipped is None:
        raise LogError(f"{damage}. Restore it, or read on after it by passing a list as `skipped`")
    skipped.append(damage)
