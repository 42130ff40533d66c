"""Append-only segments of predictions and labels: one writer per worker process, any number of readers.

A segment starts with a magic number and the format's version, followed by frames: a mark, the payload's length and CRC-32,
and the payload, one msgpack record. Its name tells when and by which worker it was started. While it is being written it
ends in `.open` and its writer holds a lock on it; sealed it ends in `.sealed`, its last frame sums it up, and it never
changes again. Turning segments into tables is the business of `operations`.
"""

import errno
import fcntl
import os
import re
import struct
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from zlib import crc32

import msgspec

from mlops_assets.core.records import LabelRecord, PredictionRecord, Record
from mlops_assets.stores.files import locked, make_folder, sync_folder

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
        if not _WORKER_NAME.fullmatch(worker):
            raise ValueError(f"{worker!r} cannot name a worker: expected letters, digits, '_', '-' and '.'")
        self.root = root
        self.worker = worker
        self.durable = durability == "disk"
        self.max_segment_bytes = max_segment_bytes
        self.max_segment_age_s = max_segment_age_s
        self._appending = threading.Lock()
        self._sealing = threading.Lock()
        self._closed = False
        self._segment: _OpenSegment | None = self._create()

    def append(self, records: Sequence[Record]) -> None:
        """Write records with one system call; when this returns they are as safe as `durability` says.

        All of them are written or none. Raises `LogError` when they could not be (disk full, for one): nothing of them
        stays and the next call works again once there is room. Raises `ValueError` for a time without a time zone.
        """
        if not records:
            return
        content, times = _frame(records)
        with self._appending:
            if self._closed:
                raise LogError(f"the log of {self.worker} in {self.root} is closed")
            if self._segment is None:
                self._segment = self._create()
            self._segment.write(content, self.durable)
            self._segment.summary.add(records, times)

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
            segment.seal()

    def seal(self) -> None:
        """Seal the segment now; the next `append` starts a new one. Raises `LogError` as `rotate_if_due` does."""
        with self._sealing:
            with self._appending:
                segment, self._segment = self._segment, None
            if segment is not None:
                segment.seal()

    def close(self) -> None:
        """Seal, and refuse to append from now on."""
        with self._appending:
            self._closed = True
        self.seal()

    def _create(self) -> "_OpenSegment":
        try:
            return _OpenSegment.create(self.root, self.worker, self.durable)
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
            descriptor = self._take_over(path)
            if descriptor is None:
                continue
            try:
                sealed += _recover(descriptor, path)
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

    def find(self, record_id: str) -> tuple[PredictionRecord, ...]:
        """The predictions with this id, one per role and version, in the order of serving; empty when there is none.

        Looks first where the time in a UUIDv7 points, then through the newest segments. Having found one it reads no
        segment further than `SAME_REQUEST` away. Raises `LogError` when its only trace is in a damaged stretch.
        """
        segments = [segment for segment in self.segments() if segment.records]
        segments.sort(
            key=lambda segment: (_overlaps(segment, _uuid7_time(record_id)), segment.last_served_at), reverse=True
        )
        found: list[PredictionRecord] = []
        skipped: list[Damage] = []
        for segment in segments:
            if not found or _overlaps(segment, found[0].served_at):
                found += _find(segment.path, record_id, skipped)
        if skipped and not found:
            raise LogError(f"the record of {record_id} cannot be read: {skipped[0]}")
        return tuple(sorted(found, key=lambda record: record.served_at))

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

    def _take_over(self, path: Path) -> int | None:
        """Lock a segment whose writer is dead and return its descriptor, None when its writer lives or it is gone."""
        with locked(self.root / _LOCK):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            if not path.exists():  # sealed by its writer between opening and locking
                os.close(descriptor)
                return None
            return descriptor


SAME_REQUEST = timedelta(minutes=5)

_MAGIC = b"mlopslog"
_VERSION = 1
_PREAMBLE = struct.Struct("<8sI")
_FRAME = struct.Struct("<4sII")  # mark, length of the payload, CRC-32 of the payload
_MARK = b"\xf5\xc0\xff\xc1"  # bytes that no UTF-8 text holds, so that no text in a record looks like a frame
_LOCK = ".lock"
_LONGEST_FOOTER = 64 * 1024
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_WORKER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class _Footer(msgspec.Struct, frozen=True, tag_field="kind", tag="end"):
    records: int
    first_served_at: datetime
    last_served_at: datetime
    models: tuple[str, ...]


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(PredictionRecord | LabelRecord | _Footer)


@dataclass
class _Summary:
    """What the footer will say of the records so far."""

    records: int = 0
    first: datetime = _LATEST
    last: datetime = _EARLIEST
    models: set[str] = field(default_factory=set)

    def add(self, records: Sequence[Record], times: Sequence[datetime]) -> None:
        self.records += len(records)
        self.first = min(self.first, *times)
        self.last = max(self.last, *times)
        self.models.update(record.model for record in records)

    def footer(self) -> _Footer:
        return _Footer(self.records, self.first, self.last, tuple(sorted(self.models)))


def _frame(records: Sequence[Record]) -> tuple[bytes, list[datetime]]:
    """Records as they stand in a segment, and their times."""
    times = [_time_of(record) for record in records]
    return b"".join([_framed(record) for record in records]), times


def _framed(part: Record | _Footer) -> bytes:
    payload = _encode(part)
    return _FRAME.pack(_MARK, len(payload), crc32(payload)) + payload


def _time_of(record: Record) -> datetime:
    """When a prediction was served or a label received; refuses times that do not say where on the globe they hold."""
    if type(record) is PredictionRecord:
        served, told = record.served_at, record.event_time
    else:
        assert isinstance(record, LabelRecord)
        served, told = record.received_at, record.observed_at
        if record.event_time is not None and record.event_time.tzinfo is None:
            raise ValueError(f"{record.model}: label {record.name} has an event time without a time zone")
    if served.tzinfo is None or told.tzinfo is None:
        raise ValueError(f"{record.model}: record {record.id} has a time without a time zone")
    return served


class _OpenSegment:
    """The file being written. Whoever holds its lock is its writer; the lock goes with the process."""

    def __init__(self, path: Path, descriptor: int):
        self.path = path
        self.size = 0
        self.created_s = time.monotonic()
        self.summary = _Summary()
        self._descriptor = descriptor
        self._unsettled = False

    @classmethod
    def create(cls, root: Path, worker: str, durable: bool) -> "_OpenSegment":
        make_folder(root)
        # Under the lock, so that nobody sees the file before its writer holds it and takes it for a dead worker's.
        with locked(root / _LOCK):
            now = datetime.now(UTC)
            path = root / f"{now:%Y%m%dT%H%M%S}{now.microsecond:06d}Z-{worker}.open"
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        segment = cls(path, descriptor)
        try:
            segment.write(_PREAMBLE.pack(_MAGIC, _VERSION), durable)
            if durable:
                sync_folder(root)
        except (OSError, LogError):
            path.unlink()
            os.close(descriptor)
            raise
        return segment

    def seal(self) -> None:
        """Sum up, wait for the disk, rename. The segment can be sealed by `PredictionLog.recover` if this fails."""
        try:
            if self._unsettled:
                self._undo()
            if self.summary.records:
                self.write(_framed(self.summary.footer()), durable=True)
                _rename_sealed(self.path)
            else:
                self.path.unlink()
        except OSError as error:
            raise LogError(f"cannot seal {self.path}: {error}") from error
        finally:
            os.close(self._descriptor)

    def write(self, content: bytes, durable: bool) -> None:
        if self._unsettled:
            self._undo()
        # Set until the write is accounted for: whatever interrupts it, the next call starts from what was acknowledged.
        self._unsettled = True
        try:
            written = os.write(self._descriptor, content)
            if written == len(content) and durable:
                os.fdatasync(self._descriptor)
        except OSError as error:
            self._undo()
            raise LogError(f"{self.path}: nothing was written: {error}") from error
        if written != len(content):
            self._undo()
            raise LogError(f"{self.path}: nothing was written: only {written} of {len(content)} bytes had room")
        self.size += written
        self._unsettled = False

    def _undo(self) -> None:
        try:
            os.ftruncate(self._descriptor, self.size)
        except OSError as error:
            raise LogError(f"{self.path}: cannot cut a failed write off; retried at the next: {error}") from error
        self._unsettled = False


def _rename_sealed(path: Path) -> None:
    os.rename(path, path.with_suffix(".sealed"))
    sync_folder(path.parent)


def _recover(descriptor: int, path: Path) -> bool:
    """Settle a dead worker's segment, and say whether it was sealed (or deleted, holding not one whole frame)."""
    content = path.read_bytes()
    _require_version(content, path)
    summary, end, footed = _Summary(), 0, False
    for _, payload, stop in _frames(content):
        if payload is None:
            continue
        end = stop
        frame = _decode(payload)
        if isinstance(frame, _Footer):
            footed = True
        elif isinstance(frame, PredictionRecord | LabelRecord):
            summary.add([frame], [_time_of(frame)])
    if not end:
        path.unlink()
        return False
    os.ftruncate(descriptor, end)
    if not footed:
        footer = _framed(summary.footer())
        if os.write(descriptor, footer) != len(footer):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)
    _rename_sealed(path)
    return True


def _records(path: Path, skipped: list[Damage] | None) -> Iterator[Record]:
    path, content = _load(path)
    _require_version(content, path)
    sealed = path.suffix == ".sealed"
    footer: _Footer | None = None
    records, intact = 0, True
    for offset, payload, stop in _frames(content):
        frame = None if payload is None else _decode(payload)
        if isinstance(frame, _Footer):
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


def _find(path: Path, record_id: str, skipped: list[Damage]) -> Iterator[PredictionRecord]:
    path, content = _load(path)
    _require_version(content, path)
    wanted = record_id.encode()
    position = content.find(wanted)
    for offset, payload, stop in _frames(content):
        if position < 0:
            return
        if position >= stop:
            continue
        frame = None if payload is None else _decode(payload)
        if isinstance(frame, PredictionRecord):
            if frame.id == record_id:
                yield frame
        elif not isinstance(frame, LabelRecord | _Footer):
            skipped.append(Damage(path, offset, stop - offset, frame or "no whole record"))
        position = content.find(wanted, stop)


def _info(path: Path) -> SegmentInfo | None:
    """Sealed segments tell by their footer; others, and those whose footer is damaged, are read through."""
    summed_up = _summed_up(path) if path.suffix == ".sealed" else None
    if summed_up is None:
        path, content = _load(path)
        if not content:
            return None
        _require_version(content, path)
        summary = _Summary()
        for _, payload, _ in _frames(content):
            frame = None if payload is None else _decode(payload)
            if isinstance(frame, PredictionRecord | LabelRecord):
                summary.add([frame], [_time_of(frame)])
        summed_up = summary.footer(), len(content)
    footer, size = summed_up
    times = (footer.first_served_at, footer.last_served_at) if footer.records else (None, None)
    worker = path.stem.partition("Z-")[2]
    return SegmentInfo(path, path.suffix == ".sealed", size, worker, footer.records, *times)


def _frames(content: bytes) -> Iterator[tuple[int, memoryview | None, int]]:
    """Offset, payload and end of each frame; a payload of None stands for a stretch up to the next whole frame, or the end."""
    view, end = memoryview(content), len(content)
    offset = _PREAMBLE.size if content.startswith(_MAGIC) else 0
    while offset < end:
        stop = _end_of_frame(view, offset)
        if stop:
            yield offset, view[offset + _FRAME.size : stop], stop
        else:
            stop = content.find(_MARK, offset + 1)
            while stop >= 0 and not _end_of_frame(view, stop):
                stop = content.find(_MARK, stop + 1)
            stop = end if stop < 0 else stop
            yield offset, None, stop
        offset = stop


def _end_of_frame(view: memoryview, offset: int) -> int:
    """Where the whole frame at `offset` ends, 0 when there is none."""
    start = offset + _FRAME.size
    if start > len(view):
        return 0
    mark, length, checksum = _FRAME.unpack_from(view, offset)
    stop: int = start + length
    if mark != _MARK or stop > len(view) or crc32(view[start:stop]) != checksum:
        return 0
    return stop


def _decode(payload: memoryview) -> Record | _Footer | str:
    """A record or footer, or why the payload is neither."""
    try:
        frame: Record | _Footer = _decoder.decode(payload)
    except msgspec.DecodeError as error:
        return f"not a record this program knows ({error})"
    return frame


def _summed_up(path: Path) -> tuple[_Footer, int] | None:
    """The last frame and the size in bytes of a sealed segment; None when that frame is not whole."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LONGEST_FOOTER))
            tail = file.read()
    except FileNotFoundError:
        return None
    offset = tail.rfind(_MARK)
    if offset < 0 or _end_of_frame(memoryview(tail), offset) != len(tail):
        return None
    frame = _decode(memoryview(tail)[offset + _FRAME.size :])
    return (frame, size) if isinstance(frame, _Footer) else None


def _load(path: Path) -> tuple[Path, bytes]:
    """A segment's path and content now: it may have been sealed, or removed (then empty), since the folder was listed."""
    for candidate in (path, path.with_suffix(".sealed")):
        try:
            return candidate, candidate.read_bytes()
        except FileNotFoundError:
            continue
    return path.with_suffix(".open"), b""


def _require_version(content: bytes, path: Path) -> None:
    if content.startswith(_MAGIC) and len(content) >= _PREAMBLE.size:
        version = _PREAMBLE.unpack_from(content)[1]
        if version != _VERSION:
            raise LogError(f"{path} has format {version}, this program reads {_VERSION}: install the matching release")


def _report(damage: Damage, skipped: list[Damage] | None) -> None:
    if skipped is None:
        raise LogError(f"{damage}. Restore it, or read on after it by passing a list as `skipped`")
    skipped.append(damage)


def _overlaps(segment: SegmentInfo, moment: datetime | None) -> bool:
    if moment is None or segment.first_served_at is None or segment.last_served_at is None:
        return False
    return segment.first_served_at - SAME_REQUEST <= moment <= segment.last_served_at + SAME_REQUEST


def _uuid7_time(record_id: str) -> datetime | None:
    try:
        parsed = uuid.UUID(record_id)
    except ValueError:
        return None
    return datetime.fromtimestamp((parsed.int >> 80) / 1000, UTC) if parsed.version == 7 else None
