"""The bytes of a log segment: frames around msgpack records, and how to find them again where bytes are damaged or missing.

A segment starts with a magic number and the format's version, followed by frames: a mark, the payload's length and CRC-32,
and the payload, one record. The last frame of a sealed segment sums it up. Files, locks and who writes when are not known here.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zlib import crc32

import msgspec

from mlops_assets.core.records import LabelRecord, PredictionRecord, Record

VERSION = 1


class Footer(msgspec.Struct, frozen=True, tag_field="kind", tag="end"):
    """The last frame of a sealed segment: what the frames before it hold."""

    records: int
    first_served_at: datetime
    last_served_at: datetime
    models: tuple[str, ...]


@dataclass
class Summary:
    """What the footer will say of the records so far."""

    records: int = 0
    first: datetime | None = None
    last: datetime | None = None
    models: set[str] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """Count a record in, whose times have a time zone."""
        moment = record.received_at if isinstance(record, LabelRecord) else record.served_at
        if self.first is None or self.last is None:
            self.first = self.last = moment
        elif moment > self.last:
            self.last = moment
        elif moment < self.first:
            self.first = moment
        self.records += 1
        self.models.add(record.model)

    def footer(self) -> Footer:
        nothing = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
        return Footer(self.records, self.first or nothing[0], self.last or nothing[1], tuple(sorted(self.models)))


def framed_batch(records: Sequence[Record]) -> bytes:
    """Records as they stand in a segment. Raises ValueError when a time has no time zone."""
    for record in records:
        _require_zones(record)
    return framed(records[0]) if len(records) == 1 else b"".join([framed(record) for record in records])


def framed(part: Record | Footer) -> bytes:
    """A record or footer as it stands in a segment."""
    payload = _encode(part)
    return _FRAME.pack(_MARK, len(payload), crc32(payload)) + payload


def frames(content: bytes) -> Iterator[tuple[int, memoryview | None, int]]:
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


def decode(payload: memoryview) -> Record | Footer | str:
    """A record or footer, or why the payload is neither."""
    try:
        frame: Record | Footer = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"not a record this program knows ({error})"
    return frame


def last_footer(tail: bytes) -> Footer | None:
    """The footer in the last bytes of a segment; None when its last frame is no whole footer."""
    offset = tail.rfind(_MARK)
    if offset < 0 or _end_of_frame(memoryview(tail), offset) != len(tail):
        return None
    frame = decode(memoryview(tail)[offset + _FRAME.size :])
    return frame if isinstance(frame, Footer) else None


def beginning(record_id: str) -> bytes:
    """What a prediction with this id begins with, behind the head of its payload, and nothing else holds.

    Its kind and its id are what is written first. No text holds these bytes, for they are no UTF-8.
    """
    return _KIND_AND_ID + _encode(record_id)


def frame_at(descriptor: int, begins: int) -> tuple[int, int, memoryview | None]:
    """Offset, size and payload of the frame in a file whose record's `beginning` is there; None when it is not whole."""
    for head in _MAP_HEADS:
        offset = begins - head - _FRAME.size
        framing = os.pread(descriptor, _FRAME.size, offset) if offset >= 0 else b""
        if len(framing) == _FRAME.size and framing.startswith(_MARK):
            size = _FRAME.size + min(_FRAME.unpack(framing)[1], os.fstat(descriptor).st_size)
            content = os.pread(descriptor, size, offset)
            whole = _end_of_frame(memoryview(content), 0)
            return offset, size, memoryview(content)[_FRAME.size :] if whole else None
    return begins, 0, None


def preamble() -> bytes:
    """What a new segment starts with."""
    return _PREAMBLE.pack(_MAGIC, VERSION)


def foreign_version(content: bytes) -> int | None:
    """The version of a segment in a format that this program does not read; None when it does."""
    if not content.startswith(_MAGIC) or len(content) < _PREAMBLE.size:
        return None
    version: int = _PREAMBLE.unpack_from(content)[1]
    return None if version == VERSION else version


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


def _require_zones(record: Record) -> None:
    if isinstance(record, LabelRecord):
        told = record.event_time or record.received_at
        missing = record.received_at.tzinfo is None or record.observed_at.tzinfo is None or told.tzinfo is None
    else:
        missing = record.served_at.tzinfo is None or record.event_time.tzinfo is None
    if missing:
        raise ValueError(f"{record.model}: record {record.id} has a time without a time zone")


_MAGIC = b"mlopslog"
_PREAMBLE = struct.Struct("<8sI")
_FRAME = struct.Struct("<4sII")  # mark, length of the payload, CRC-32 of the payload
_MARK = b"\xf5\xc0\xff\xc1"  # bytes that no UTF-8 text holds, so that no text in a record looks like a frame
_MAP_HEADS = (1, 3)  # bytes that tell how many fields follow: up to 15, or more
_KIND_AND_ID = b"\xa4kind\xaaprediction\xa2id"
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(PredictionRecord | LabelRecord | Footer)
