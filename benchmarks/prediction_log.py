"""How many records a second the prediction log acknowledges in batches, and whether one is lost when its writer is killed.

A writer is killed (`kill -9`) at a random moment, again and again; what it had acknowledged until then must be read back, each
record once. Both durabilities: "os" acknowledges what the operating system has, "disk" what the disk has (whether that survives
the loss of power cannot be tried by killing).

Run: ``make bench-prediction-log``
"""

import os
import random
import signal
import statistics
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import uuid_utils

from benchmarks.common import SEED, Figures, save, table
from mlops_assets.core.records import PredictionRecord
from mlops_assets.stores.prediction_log import Durability, LogWriter, PredictionLog

NAME: Final = "prediction_log"
DURABILITIES: Final[tuple[Durability, ...]] = ("os", "disk")
BATCHES: Final = (1, 100, 1_000)
BATCH: Final = 1_000
ROUNDS: Final = 3
SECONDS: Final = 1.0
KILLS: Final = 200
LONGEST_LIFE_S: Final = 0.05
# What a worker writes between two looks at how large the segment is: small, so that writers are killed while they seal too.
SEGMENT_BYTES: Final = 64 * 1024
_TITLES: Final = {"os": "written to the operating system", "disk": "synced to the disk"}
_ACKNOWLEDGED: Final = struct.Struct("<q")


@dataclass(frozen=True)
class Speed:
    """Acknowledged records a second, and the processor time of one."""

    rate: float
    cpu_us: float


@dataclass(frozen=True)
class Killed:
    """What many killed writers had acknowledged, and what became of it."""

    acknowledged: int
    lost: int
    twice: int


def main(kills: int = KILLS, seconds: float = SECONDS) -> None:
    """Measure, print the tables and write the figures."""
    speeds: dict[tuple[Durability, int], list[Speed]] = {}
    for _ in range(ROUNDS):
        for durability in DURABILITIES:
            for batch in BATCHES:
                speeds.setdefault((durability, batch), []).append(_speed(durability, batch, seconds))
    killed = {durability: _killed(durability, kills) for durability in DURABILITIES}
    figures = _figures(speeds, killed, kills)
    table(
        "The log alone, one core, records of one answer with 19 features",
        ["", *(column for batch in BATCHES for column in (f"records/s by {batch:,}", "CPU µs"))],
        [
            [
                _TITLES[durability],
                *(figures[f"{what}_{durability}_{batch}"] for batch in BATCHES for what in ("records_per_s", "cpu_us")),
            ]
            for durability in DURABILITIES
        ],
    )
    table(
        f"Writers killed at random moments, {kills} of each",
        ["", "acknowledged", "lost", "read back twice"],
        [[_TITLES[name], found.acknowledged, found.lost, found.twice] for name, found in killed.items()],
    )
    save(NAME, figures)


def _speed(durability: Durability, batch: int, seconds: float) -> Speed:
    records = _records(batch)
    with tempfile.TemporaryDirectory(prefix="prediction-log-") as folder:
        writer = LogWriter(Path(folder), "bench", durability=durability)
        writer.append(records)
        appended, begun, cpu = 0, time.perf_counter(), time.process_time()
        while (passed := time.perf_counter() - begun) < seconds:
            writer.append(records)
            appended += batch
            writer.rotate_if_due()
        speed = Speed(appended / passed, (time.process_time() - cpu) / appended * 1e6)
        writer.close()
    return speed


def _killed(durability: Durability, kills: int) -> Killed:
    random_ = random.Random(SEED)
    acknowledged = lost = twice = 0
    with tempfile.TemporaryDirectory(prefix="prediction-log-") as name:
        for kill in range(kills):
            folder = Path(name) / str(kill)
            told = _write_until_killed(folder, durability, random_.uniform(0, LONGEST_LIFE_S), random_.randrange(2**32))
            log = PredictionLog(folder)
            log.recover()
            found = Counter(record.id for record in log.records() if isinstance(record, PredictionRecord))
            acknowledged += told
            lost += sum(str(number) not in found for number in range(told))
            twice += sum(count > 1 for count in found.values())
    return Killed(acknowledged, lost, twice)


def _write_until_killed(folder: Path, durability: Durability, life_s: float, seed: int) -> int:
    """Let a process write numbered records and kill it; returns how many it had acknowledged.

    Its life counts from its first acknowledgement, so that none dies before it has anything to lose.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            _write(folder, durability, writing, random.Random(seed))
        finally:
            os._exit(1)  # only reached when the writer itself fails
    os.close(writing)
    told = os.read(reading, _ACKNOWLEDGED.size)
    time.sleep(life_s)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WTERMSIG(status) != signal.SIGKILL:
        raise RuntimeError(f"the writer ended by itself, with status {status}: what it said is above")
    while more := os.read(reading, 2**16):
        told += more
    os.close(reading)
    whole = len(told) - len(told) % _ACKNOWLEDGED.size
    return int(_ACKNOWLEDGED.unpack_from(told, whole - _ACKNOWLEDGED.size)[0]) if whole else 0


def _write(folder: Path, durability: Durability, acknowledgements: int, random_: random.Random) -> None:
    writer = LogWriter(folder, "bench", durability=durability, max_segment_bytes=SEGMENT_BYTES)
    written, record = 0, _records(1)[0]
    while True:
        batch = random_.choice((1, 1, 1, 10, 100))
        writer.append([msgspec.structs.replace(record, id=str(written + place)) for place in range(batch)])
        written += batch
        os.write(acknowledgements, _ACKNOWLEDGED.pack(written))
        writer.rotate_if_due()


def _records(count: int) -> Sequence[PredictionRecord]:
    """Records as they are written of answers about flights."""
    now = datetime.now(UTC)
    features = (
        "UA",
        "EWR",
        "IAH",
        1400.0,
        317.0,
        5.0,
        14.0,
        149.0,
        39.02,
        28.04,
        64.43,
        260.0,
        12.66,
        0.0,
        1011.9,
        10.0,
    )
    return [
        PredictionRecord(
            id=str(uuid_utils.uuid7()),
            model="flight_delay",
            version=1,
            bundle="sha256:" + 64 * "0",
            release=1,
            rollout="0199a1b2c3d4e5f60718293a4b5c6d7e",
            role="champion",
            event_time=now,
            served_at=now,
            entity="UA-1545-2013-03-01",
            features=(*features, 2.3, 4.1, -1.7),
            output=(0.8123456789, 0.1876543211),
            latency_ms=0.043,
        )
        for _ in range(count)
    ]


def _figures(
    speeds: dict[tuple[Durability, int], list[Speed]], killed: dict[Durability, Killed], kills: int
) -> Figures:
    figures: dict[str, float | int | None] = {}
    for (durability, batch), found in speeds.items():
        figures[f"records_per_s_{durability}_{batch}"] = statistics.median(one.rate for one in found)
        figures[f"cpu_us_{durability}_{batch}"] = statistics.median(one.cpu_us for one in found)
    for durability, one in killed.items():
        figures |= {
            f"acknowledged_{durability}": one.acknowledged,
            f"lost_{durability}": one.lost,
            f"twice_{durability}": one.twice,
        }
    return figures | {
        "records_per_s": figures[f"records_per_s_os_{BATCH}"],
        "records_per_s_disk": figures[f"records_per_s_disk_{BATCH}"],
        "lost": sum(one.lost for one in killed.values()),
        "kills": kills,
    }


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *map(float, sys.argv[2:3]))
