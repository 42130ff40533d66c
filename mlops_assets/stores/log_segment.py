"""The segment file that a process writes to, from its creation to its sealing, and settling the one a dead process left.

While it is being written a segment ends in `.open` and its writer holds a lock on it; sealed it ends in `.sealed` and never
changes again. What stands in it is the business of `log_frames`; when to start and seal one, of `prediction_log`.
"""

import errno
import fcntl
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mlops_assets.core.records import LabelRecord, PredictionRecord, Record
from mlops_assets.stores.files import locked, make_folder, sync_folder
from mlops_assets.stores.log_frames import Footer, Summary, decode, framed, frames, preamble

_LOCK = ".lock"


class OpenSegment:
    """The file being written. Whoever holds its lock is its writer; the lock goes with the process.

    Its methods raise OSError, which says what became of the content.
    """

    def __init__(self, path: Path, descriptor: int, durable: bool):
        self.path = path
        self.size = 0
        self.created_s = time.monotonic()
        self.summary = Summary()
        self._descriptor = descriptor
        self._durable = durable
        self._unsettled = False

    @classmethod
    def create(cls, root: Path, worker: str, durable: bool) -> "OpenSegment":
        make_folder(root)
        # Under the lock, so that nobody sees the file before its writer holds it and takes it for a dead worker's.
        with locked(root / _LOCK):
            now = datetime.now(UTC)
            path = root / f"{now:%Y%m%dT%H%M%S}{now.microsecond:06d}Z-{worker}.open"
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        segment = cls(path, descriptor, durable)
        try:
            segment._write(preamble(), durable)
            if durable:
                sync_folder(root)
        except OSError:
            path.unlink()
            os.close(descriptor)
            raise
        return segment

    def append(self, content: bytes, records: Sequence[Record]) -> None:
        """Write the frames of records, all of them or none, and count them in."""
        self._write(content, self._durable)
        for record in records:
            self.summary.add(record)

    def seal(self) -> None:
        """Sum up, wait for the disk, rename. The segment can be sealed by `settle` if this fails."""
        try:
            if self._unsettled:
                self._undo()
            if self.summary.records:
                self._write(framed(self.summary.footer()), durable=True)
                _rename_sealed(self.path)
            else:
                self.path.unlink()
        finally:
            os.close(self._descriptor)

    def _write(self, content: bytes, durable: bool) -> None:
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
            raise OSError(f"{self.path}: nothing was written: {error}") from error
        if written != len(content):
            self._undo()
            raise OSError(f"{self.path}: nothing was written: only {written} of {len(content)} bytes had room")
        self.size += written
        self._unsettled = False

    def _undo(self) -> None:
        try:
            os.ftruncate(self._descriptor, self.size)
        except OSError as error:
            raise OSError(f"{self.path}: cannot cut a failed write off; retried at the next: {error}") from error
        self._unsettled = False


def take_over(path: Path) -> int | None:
    """Lock a segment whose writer is dead and return its descriptor, None when its writer lives or it is gone."""
    with locked(path.parent / _LOCK):
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


def settle(descriptor: int, path: Path, content: bytes) -> bool:
    """Cut the torn tail of a segment taken over and seal it; one without a whole frame is deleted, and the answer False."""
    summary, end, footed = Summary(), 0, False
    for _, payload, stop in frames(content):
        if payload is None:
            continue
        end = stop
        frame = decode(payload)
        if isinstance(frame, Footer):
            footed = True
        elif isinstance(frame, PredictionRecord | LabelRecord):
            summary.add(frame)
    if not end:
        path.unlink()
        return False
    os.ftruncate(descriptor, end)
    if not footed:
        footer = framed(summary.footer())
        if os.write(descriptor, footer) != len(footer):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)
    _rename_sealed(path)
    return True


def _rename_sealed(path: Path) -> None:
    os.rename(path, path.with_suffix(".sealed"))
    sync_folder(path.parent)
