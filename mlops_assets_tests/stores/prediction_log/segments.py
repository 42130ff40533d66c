"""Segments as tests want them: sealed, as a killed worker leaves them, damaged."""

import os
import shutil
from datetime import datetime
from pathlib import Path

from mlops_assets.core.records import Record
from mlops_assets.stores.log_frames import Summary, framed, framed_batch, preamble
from mlops_assets.stores.prediction_log import LogWriter, PredictionLog


class LogWriterFor(LogWriter):
    def __init__(self, log: PredictionLog, worker: str = "w", **settings):
        super().__init__(log.root, worker, **settings)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def written(root: Path, *records, worker: str = "w") -> Path:
    """A sealed segment of these records."""
    writer = LogWriter(root, worker)
    writer.append(records)
    writer.close()
    return PredictionLog(root).segments()[-1].path


def begun_at(root: Path, begun: datetime, *records: Record, worker: str = "w", minutes: float = 5) -> Path:
    """A sealed segment of these records that was begun then, and written to for so long."""
    summary = Summary()
    for record in records:
        summary.add(record)
    path = root / f"{begun:%Y%m%dT%H%M%S}{begun.microsecond:06d}Z-{worker}.sealed"
    path.write_bytes(preamble() + framed_batch(records) + framed(summary.footer()))
    ended = begun.timestamp() + minutes * 60
    os.utime(path, (ended, ended))
    return path


def unsealed(root: Path, *records, worker: str = "w") -> Path:
    """A segment of these records as a killed worker leaves it."""
    aside = root / "aside"
    writer = LogWriter(aside, worker)
    writer.append(records)
    (living,) = aside.glob("*.open")
    path = Path(shutil.copy(living, root))
    writer.close()
    shutil.rmtree(aside)
    return path


def damaged(path: Path, *, at_record: int) -> int:
    """Flip one bit in the payload of a record and return its frame's offset."""
    content = bytearray(path.read_bytes())
    offset = -1
    for _ in range(at_record + 1):
        offset = content.index(b"\xf5\xc0\xff\xc1", offset + 1)
    content[offset + 40] ^= 4
    path.write_bytes(content)
    return offset
