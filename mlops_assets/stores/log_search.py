"""Finding the records of one request among all segments: which can hold it, and where in them it stands.

Segments are searched for the bytes that such a record begins with, a stretch at a time; only what is found is decoded. Who may
search, and how far, is the business of those who ask.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec

from mlops_assets.core.records import PredictionRecord
from mlops_assets.stores.log_frames import VERSION, beginning, decode, foreign_version, frame_at, preamble

SAME_REQUEST = timedelta(minutes=5)

_STRETCH = 4 * 1024 * 1024
_EVER = datetime(1970, 1, 2, tzinfo=UTC)


class Limits(msgspec.Struct, frozen=True):
    """Where a search ends that has found nothing: None for no end.

    Attributes
    ----------
    bytes, segments
        What may be read.
    seconds
        How long it may take, by the clock.
    records
        How many are enough.
    """

    bytes: int | None = None
    segments: int | None = None
    seconds: float | None = None
    records: int | None = None


class Search(msgspec.Struct, frozen=True):
    """What was found, and how far was looked.

    Attributes
    ----------
    records
        One per role and version, in the order of serving.
    back_to
        All segments that were begun since then were looked through; None when no others are left to look at.
    opened
        Segments that were opened.
    out_of_time
        The clock ended it, so that it may go further another time.
    unreadable
        What was come upon that cannot be read, and where; empty when nothing was.
    """

    records: tuple[PredictionRecord, ...] = ()
    back_to: datetime | None = None
    opened: int = 0
    out_of_time: bool = False
    unreadable: str = ""


def search(paths: Sequence[Path], record_id: str, limits: Limits) -> Search:
    """Look for the predictions with an id: first where the time in a UUIDv7 points, then from the newest segment backwards.

    Having found one it opens only segments that were written to within `SAME_REQUEST` of it.

    Parameters
    ----------
    paths
        The segments. Their names tell when and by which worker they were begun.

    Raises
    ------
    OSError
        When a segment that is there cannot be read.
    """
    segments = sorted((_Segment.of(path) for path in paths), key=lambda one: one.begun, reverse=True)
    hunt = _Hunt(record_id, limits)
    moment = _uuid7_time(record_id)
    ended = moment is not None and not hunt.through(_written_around(segments, moment))
    back_to: datetime | None = None
    for segment in segments:
        if ended or hunt.found:
            break
        ended = not hunt.through([segment])
        if not ended:
            back_to = segment.begun
    if hunt.found:
        ended = not hunt.through(_written_around(segments, hunt.at))
    return hunt.told(back_to or datetime.now(UTC) if ended else None)


@dataclass(frozen=True)
class _Segment:
    path: Path
    begun: datetime
    worker: str

    @classmethod
    def of(cls, path: Path) -> "_Segment":
        moment, _, worker = path.stem.partition("Z-")
        try:
            begun = datetime.fromisoformat(f"{moment[:15]}.{moment[15:]}").replace(tzinfo=UTC)
        except ValueError:  # put there by hand: it may hold anything
            return cls(path, _EVER, path.name)
        return cls(path, begun, worker)

    def written_to(self) -> datetime | None:
        """When last; None when it is gone."""
        for path in _places(self.path):
            with suppress(FileNotFoundError):
                return datetime.fromtimestamp(path.stat().st_mtime, UTC)
        return None


class _Hunt:
    """Looks through segments, through each once, until a limit is reached."""

    def __init__(self, record_id: str, limits: Limits):
        self.found: list[PredictionRecord] = []
        self.at = _EVER
        self._id = record_id
        self._wanted = beginning(record_id)
        self._limits = limits
        self._ends = float("inf") if limits.seconds is None else time.monotonic() + limits.seconds
        self._looked_at: set[Path] = set()
        self._bytes = 0
        self._out_of_time = False
        self._unreadable = ""

    def through(self, segments: Iterable[_Segment]) -> bool:
        """Whether all of them were looked through."""
        for segment in segments:
            if segment.path in self._looked_at:
                continue
            if self._has_ended() or _reached(len(self._looked_at), self._limits.segments):
                return False
            self._looked_at.add(segment.path)
            if not self._look(segment):
                return False
        return True

    def told(self, back_to: datetime | None) -> Search:
        records = tuple(sorted(self.found, key=lambda record: record.served_at))
        return Search(records, back_to, len(self._looked_at), self._out_of_time, self._unreadable)

    def _look(self, segment: _Segment) -> bool:
        for path in _places(segment.path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                return self._read(descriptor, path, segment)
            finally:
                os.close(descriptor)
        return True  # removed since the folder was listed

    def _read(self, descriptor: int, path: Path, segment: _Segment) -> bool:
        foreign = foreign_version(os.pread(descriptor, len(preamble()), 0))
        if foreign is not None:
            self._unreadable = (
                f"{path} has format {foreign}, this program reads {VERSION}: install the matching release"
            )
            return True
        offset = 0
        while len(stretch := os.pread(descriptor, _STRETCH, offset)) >= len(self._wanted):
            if offset and self._has_ended():
                return False
            for at in _occurrences(stretch, self._wanted):
                self._take(descriptor, offset + at, path, segment)
                if self._has_ended():
                    return False
            self._bytes += len(stretch)
            # Wanted bytes that lie across two stretches are whole in the second.
            offset += len(stretch) - len(self._wanted) + 1
        return True

    def _has_ended(self) -> bool:
        self._out_of_time = time.monotonic() > self._ends
        return (
            self._out_of_time
            or _reached(self._bytes, self._limits.bytes)
            or _reached(len(self.found), self._limits.records)
        )

    def _take(self, descriptor: int, begins: int, path: Path, segment: _Segment) -> None:
        offset, size, payload = frame_at(descriptor, begins)
        frame = "no whole record" if payload is None else decode(payload)
        if isinstance(frame, PredictionRecord):
            if not self.found:
                last = segment.written_to() or segment.begun
                self.at = min(max(frame.served_at, segment.begun), max(last, segment.begun))
            self.found.append(frame)
        elif isinstance(frame, str) and not self._unreadable:
            self._unreadable = f"{path} is damaged at offset {offset} ({size} bytes): {frame}"


def _reached(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit


def _occurrences(content: bytes, wanted: bytes) -> Iterator[int]:
    at = content.find(wanted)
    while at >= 0:
        yield at
        at = content.find(wanted, at + 1)


def _written_around(segments: Sequence[_Segment], moment: datetime) -> Iterator[_Segment]:
    """Those that a request at this time can be in, newest first. A worker writes to one at a time."""
    sealed_before: set[str] = set()
    for segment in segments:
        if segment.begun - SAME_REQUEST > moment or segment.worker in sealed_before:
            continue
        if segment.begun + SAME_REQUEST < moment:
            # What the worker began before this one was sealed when this one was begun.
            sealed_before.add(segment.worker)
        last = segment.written_to()
        if last is not None and last + SAME_REQUEST >= moment:
            yield segment


def _places(path: Path) -> tuple[Path, ...]:
    """Where a segment may be now: it may have been sealed since the folder was listed."""
    return (path,) if path.suffix == ".sealed" else (path, path.with_suffix(".sealed"))


def _uuid7_time(record_id: str) -> datetime | None:
    try:
        parsed = UUID(record_id)
    except ValueError:
        return None
    if parsed.version != 7:
        return None
    try:
        return datetime.fromtimestamp((parsed.int >> 80) / 1000, UTC)
    except (ValueError, OverflowError):  # a time that no calendar holds
        return None
