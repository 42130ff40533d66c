import errno
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import uuid
import zlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.records import PredictionRecord
from mlops_assets.stores.prediction_log import Damage, LogError, LogWriter, PredictionLog
from mlops_assets_tests.stores.crash import crashes
from mlops_assets_tests.stores.examples import NOON, label, prediction


def written(root: Path, *records, worker: str = "w") -> Path:
    """A sealed segment of these records."""
    writer = LogWriter(root, worker)
    writer.append(records)
    writer.close()
    return PredictionLog(root).segments()[-1].path


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


@pytest.fixture
def log(tmp_path) -> PredictionLog:
    (tmp_path / "log").mkdir()
    return PredictionLog(tmp_path / "log")


moments = st.datetimes(timezones=st.just(UTC))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
numbers = st.floats(allow_nan=False)
predictions = st.builds(
    prediction,
    id=texts,
    model=st.sampled_from(["flight_delay", "air_time"]),
    version=st.integers(1, 2**40),
    role=st.sampled_from(["champion", "challenger", "standby", "fallback"]),
    event_time=moments,
    served_at=moments,
    entity=st.none() | texts,
    features=st.lists(st.none() | st.booleans() | texts | numbers, max_size=30).map(tuple),
    output=st.lists(numbers, max_size=5).map(tuple),
    latency_ms=numbers,
    status=st.integers(100, 599),
    error=st.none() | texts,
)
labels = st.builds(
    label,
    value=numbers | texts | st.booleans() | st.integers(-(2**63), 2**63 - 1),
    observed_at=moments,
    received_at=moments,
    id=st.none() | texts,
    event_time=st.none() | moments,
    revision=st.integers(0, 99),
)


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.lists(predictions | labels, max_size=5), max_size=5), sealed=st.booleans())
def test_whatever_is_appended_reads_back(tmp_path_factory, batches, sealed):
    root = tmp_path_factory.mktemp("log")
    writer = LogWriter(root, "w")
    for batch in batches:
        writer.append(batch)
    if sealed:
        writer.seal()
    expected = [record for batch in batches for record in batch]
    read = list(PredictionLog(root).records())
    assert read == expected
    assert [type(record) for record in read] == [type(record) for record in expected]
    if expected:
        times = [
            record.served_at if isinstance(record, PredictionRecord) else record.received_at for record in expected
        ]
        (segment,) = PredictionLog(root).segments()
        assert segment.records == len(expected)
        assert (segment.first_served_at, segment.last_served_at) == (min(times), max(times))
    writer.close()


def test_times_are_kept_to_the_microsecond_and_given_in_utc(log):
    new_york = timezone(timedelta(hours=-5))
    written(log.root, prediction(event_time=NOON.astimezone(new_york)))
    (record,) = log.records()
    assert record.event_time == NOON
    assert record.event_time.isoformat() == "2013-03-01T12:00:00.123457+00:00"


def test_a_time_without_a_zone_is_refused_and_nothing_of_its_batch_written(log):
    naive = NOON.replace(tzinfo=None)
    with LogWriterFor(log) as writer:
        for wrong in (
            prediction(event_time=naive),
            prediction(served_at=naive),
            label(observed_at=naive),
            label(received_at=naive),
            label(event_time=naive),
        ):
            with pytest.raises(ValueError, match="without a time zone"):
                writer.append([prediction(1), wrong])
        writer.append([prediction(2)])
    assert list(log.records()) == [prediction(2)]


class LogWriterFor(LogWriter):
    def __init__(self, log: PredictionLog, worker: str = "w", **settings):
        super().__init__(log.root, worker, **settings)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# Reading while writing


def test_an_open_segment_is_read_with_what_was_appended_so_far(log):
    with LogWriterFor(log) as writer:
        for n in range(5):
            writer.append([prediction(n)])
            assert list(log.records()) == [prediction(k) for k in range(n + 1)]
            assert list(log.records(include_open=False)) == []
        (segment,) = log.segments()
        assert (segment.sealed, segment.worker, segment.records) == (False, "w", 5)
    assert list(log.records(include_open=False)) == [prediction(n) for n in range(5)]


def test_records_of_one_model(log):
    written(log.root, prediction(0), prediction(1, model="air_time"))
    written(log.root, prediction(2))
    written(log.root, label(3, model="air_time"))
    assert [record.id for record in log.records("air_time")] == ["request-000001", "request-000003"]
    assert list(log.records("unknown")) == []


def test_sealed_segments_are_read_one_by_one_and_model_by_model(log):
    open_writer, writer = LogWriter(log.root, "open"), LogWriter(log.root, "w")
    open_writer.append([prediction(9)])
    writer.append([prediction(1), prediction(2, model="other"), label(1)])
    writer.seal()
    writer.append([prediction(3, model="other")])
    writer.close()
    first, second = log.sealed()
    assert first < second
    assert list(log.segment(first, "flight_delay")) == [prediction(1), label(1)]
    assert list(log.segment(second, "other")) == [prediction(3, model="other")]
    assert list(log.segment(second, "flight_delay")) == []
    (log.root / second).unlink()
    assert list(log.segment(second, "other")) == []
    open_writer.close()


def test_a_segment_sealed_after_the_folder_was_listed_is_still_read(log):
    writer = LogWriterFor(log)
    writer.append([prediction(0)])
    writer.seal()
    writer.append([prediction(1)])
    reading = log.records()
    assert next(reading) == prediction(0)
    writer.seal()
    assert list(reading) == [prediction(1)]
    writer.close()


def test_a_segment_removed_after_the_folder_was_listed_is_passed_over(log):
    written(log.root, prediction(0))
    second = written(log.root, prediction(1))
    reading = log.records()
    next(reading)
    second.unlink()
    assert list(reading) == []


def test_an_empty_or_missing_folder_is_an_empty_log(tmp_path):
    log = PredictionLog(tmp_path / "nowhere")
    assert (list(log.records()), log.segments(), log.find("x"), log.recover()) == ([], (), (), 0)


# Rotation and sealing


def test_segments_rotate_by_size(log):
    with LogWriterFor(log, max_segment_bytes=2000, max_segment_age_s=1e9) as writer:
        for n in range(40):
            writer.append([prediction(n)])
            writer.rotate_if_due()
    assert len(log.segments()) > 3
    assert all(segment.sealed and segment.bytes < 4000 for segment in log.segments())
    assert list(log.records()) == [prediction(n) for n in range(40)]


def test_segments_rotate_by_age_but_not_while_empty(log):
    with LogWriterFor(log, max_segment_age_s=0) as writer:
        writer.rotate_if_due()
        writer.append([prediction(0)])
        writer.rotate_if_due()
        writer.rotate_if_due()
        assert [segment.sealed for segment in log.segments()] == [True, False]
    assert [segment.records for segment in log.segments()] == [1]


def test_a_closed_writer_refuses_and_closing_again_does_nothing(log):
    writer = LogWriterFor(log)
    writer.append([])
    writer.close()
    writer.close()
    writer.rotate_if_due()
    with pytest.raises(LogError, match="closed"):
        writer.append([prediction()])
    assert log.segments() == ()


def test_threads_append_while_another_rotates_and_nothing_is_lost(log):
    writer = LogWriterFor(log, max_segment_bytes=1)
    done = threading.Event()

    def append(start: int) -> None:
        for n in range(start, start + 300):
            writer.append([prediction(n)])

    def rotate() -> None:
        while not done.is_set():
            writer.rotate_if_due()

    appending = [threading.Thread(target=append, args=(1000 * k,)) for k in range(3)]
    rotating = threading.Thread(target=rotate)
    for thread in (*appending, rotating):
        thread.start()
    for thread in appending:
        thread.join()
    done.set()
    rotating.join()
    writer.close()
    assert sorted(record.id for record in log.records()) == [
        f"request-{1000 * k + n:06d}" for k in range(3) for n in range(300)
    ]


# Death


APPENDER = """
import os, random, sys
from pathlib import Path
from mlops_assets.stores.prediction_log import LogWriter
from mlops_assets_tests.stores.examples import prediction

root, seed = Path(sys.argv[1]), int(sys.argv[2])
choose = random.Random(seed)
writer = LogWriter(root, f"w{seed}", durability=choose.choice(["os", "disk"]), max_segment_bytes=20_000)
n = 0
while True:
    size = choose.choice([1, 1, 2, 50])
    writer.append([prediction(k, entity=f"w{seed}") for k in range(n, n + size)])
    n += size
    os.write(1, b"%d\\n" % n)
    writer.rotate_if_due()
"""


def test_every_acknowledged_record_survives_kill_9(log):
    """Twenty workers are killed at random moments; each says how many records were acknowledged until then."""
    choose = random.Random(1)
    acknowledged = {}
    pending = []
    for seed in range(20):
        command = [sys.executable, "-c", APPENDER, str(log.root), str(seed)]
        pending.append((seed, subprocess.Popen(command, stdout=subprocess.PIPE)))
        if len(pending) < 2:  # two at a time
            continue
        for worker, process in pending:
            said = b"".join(process.stdout.readline() for _ in range(choose.randrange(1, 300)))
            os.kill(process.pid, signal.SIGKILL)
            said += process.communicate()[0]
            acknowledged[f"w{worker}"] = int(said[: said.rindex(b"\n")].split()[-1])
        pending.clear()
        log.recover()
    assert all(segment.sealed for segment in log.segments())
    there = {worker: [] for worker in acknowledged}
    for record in log.records():
        there[record.entity].append(record.id)
    assert len(there) == 20
    for worker, count in acknowledged.items():
        assert there[worker] == [f"request-{n:06d}" for n in range(len(there[worker]))]
        # What was being written when it died may be there too, but no more than that.
        assert count <= len(there[worker]) <= count + 50


def test_a_crash_at_any_step_of_sealing_and_rotating_loses_nothing(log):
    expected = [prediction(n) for n in range(4)]

    def prepare():
        shutil.rmtree(log.root, ignore_errors=True)

        def live() -> None:
            writer = LogWriterFor(log, max_segment_age_s=0)
            for n in range(3):
                writer.append([prediction(n)])
                (log.root.parent / "acknowledged").write_text(str(n + 1))
                writer.rotate_if_due()
            writer.append([prediction(3)])
            writer.close()

        (log.root.parent / "acknowledged").write_text("0")
        return live

    for _ in crashes(prepare):
        acknowledged = int((log.root.parent / "acknowledged").read_text())
        before = list(log.records())
        assert len(before) >= acknowledged
        assert before == expected[: len(before)]
        log.recover()
        assert list(log.records(include_open=False)) == before
        assert not list(log.root.glob("*.open"))
        assert log.recover() == 0


def test_a_crash_at_any_step_of_recovery_loses_nothing(log):
    def prepare():
        shutil.rmtree(log.root, ignore_errors=True)
        log.root.mkdir()
        torn = unsealed(log.root, prediction(0), prediction(1))
        torn.write_bytes(torn.read_bytes()[:-1])
        return log.recover

    for _ in crashes(prepare):
        assert list(log.records()) == [prediction(0)]
        log.recover()
        assert list(log.records(include_open=False)) == [prediction(0)]


def test_a_torn_tail_is_cut_at_whatever_byte_it_ends(log):
    path = unsealed(log.root, prediction(0), prediction(1))
    content = path.read_bytes()
    last = content.rindex(b"\xf5\xc0\xff\xc1")
    assert list(log.records()) == [prediction(0), prediction(1)]
    for end in range(last, len(content)):
        path.write_bytes(content[:end])
        assert list(log.records()) == [prediction(0)]
        assert log.recover() == 1
        sealed = path.with_suffix(".sealed")
        assert list(log.records(include_open=False)) == [prediction(0)]
        assert log.segments()[0].records == 1
        sealed.unlink()


def test_a_segment_torn_before_its_first_record_is_deleted(log):
    path = unsealed(log.root, prediction(0))
    content = path.read_bytes()
    for end in range(0, len(content) - 1, 7):
        path.write_bytes(content[:end])
        assert list(log.records()) == []
        assert log.recover() == 0
        assert not path.exists()


def test_zeros_at_the_end_as_a_power_loss_leaves_them_are_cut(log):
    path = unsealed(log.root, prediction(0))
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert list(log.records()) == [prediction(0)]
    assert log.recover() == 1
    assert list(log.records()) == [prediction(0)]


def test_recovery_leaves_living_writers_alone(log):
    with LogWriterFor(log) as writer:
        writer.append([prediction(0)])
        dead = unsealed(log.root, prediction(1), worker="dead")
        assert log.recover() == 1
        assert not dead.exists()
        writer.append([prediction(2)])
    assert [record.id[-1] for record in log.records()] == ["0", "2", "1"]


def test_recovery_deletes_what_a_dead_worker_never_wrote_to(log):
    path = unsealed(log.root)
    assert path.exists()
    assert log.recover() == 0
    assert not path.exists()


# Damage


def damaged(path: Path, *, at_record: int) -> int:
    """Flip one bit in the payload of a record and return its frame's offset."""
    content = bytearray(path.read_bytes())
    offset = -1
    for _ in range(at_record + 1):
        offset = content.index(b"\xf5\xc0\xff\xc1", offset + 1)
    content[offset + 40] ^= 4
    path.write_bytes(content)
    return offset


@pytest.mark.parametrize("make", [written, unsealed])
def test_damage_in_the_middle_is_named_and_can_be_skipped_with_a_count(log, make):
    path = make(log.root, *(prediction(n) for n in range(4)))
    first = damaged(path, at_record=1)
    reading = log.records()
    assert next(reading) == prediction(0)
    with pytest.raises(LogError, match=f"{path} is damaged at offset {first} .*skipped"):
        next(reading)
    skipped: list[Damage] = []
    assert list(log.records(skipped=skipped)) == [prediction(0), prediction(2), prediction(3)]
    assert [(damage.path, damage.offset) for damage in skipped] == [(path, first)]
    assert skipped[0].bytes > 100


@pytest.mark.parametrize("field", range(12))
def test_a_damaged_frame_header_costs_that_frame_only(log, field):
    path = written(log.root, *(prediction(n) for n in range(4)))
    content = bytearray(path.read_bytes())
    offset = content.index(b"\xf5\xc0\xff\xc1", 20)
    content[offset + field] ^= 0x80
    path.write_bytes(content)
    skipped: list[Damage] = []
    assert list(log.records(skipped=skipped)) == [prediction(0), prediction(2), prediction(3)]
    assert [damage.offset for damage in skipped] == [offset]


def test_recovery_keeps_damage_in_the_middle_for_the_reader_to_see(log):
    path = unsealed(log.root, *(prediction(n) for n in range(3)))
    damaged(path, at_record=1)
    assert log.recover() == 1
    with pytest.raises(LogError, match="damaged"):
        list(log.records())
    skipped: list[Damage] = []
    assert list(log.records(skipped=skipped)) == [prediction(0), prediction(2)]
    assert len(skipped) == 1


def test_a_sealed_segment_cut_anywhere_is_noticed(log):
    path = written(log.root, *(prediction(n) for n in range(3)))
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(LogError, match="damaged at offset"):
            list(log.records())
        skipped: list[Damage] = []
        read = list(log.records(skipped=skipped))
        assert read == [prediction(n) for n in range(len(read))]
        assert len(skipped) == 1


def test_a_whole_frame_taken_out_of_a_sealed_segment_is_noticed(log):
    path = written(log.root, *(prediction(n) for n in range(3)))
    content = path.read_bytes()
    first = content.index(b"\xf5\xc0\xff\xc1")
    second = content.index(b"\xf5\xc0\xff\xc1", first + 1)
    path.write_bytes(content[:first] + content[second:])
    with pytest.raises(LogError, match="2 records of 3 are there"):
        list(log.records())


def test_another_format_is_refused_and_left_alone(log):
    path = unsealed(log.root, prediction(0))
    content = path.read_bytes()
    path.write_bytes(content[:8] + b"\2\0\0\0" + content[12:])
    for read in (lambda: list(log.records()), log.recover, log.segments):
        with pytest.raises(LogError, match="format 2, this program reads 1"):
            read()
    assert path.exists()


def framed(payload: bytes) -> bytes:
    return b"\xf5\xc0\xff\xc1" + struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


UNKNOWN = framed(msgspec.msgpack.encode({"kind": "from the future"}))
NO_UTF8 = framed(msgspec.msgpack.encode(prediction(9)).replace(b"request-000009", b"\xff" * 14))


@pytest.mark.parametrize("strange", [UNKNOWN, NO_UTF8])
def test_a_record_that_cannot_be_understood_is_damage_not_a_crash(log, strange):
    path = written(log.root, prediction(0), prediction(1), prediction(2))
    content = path.read_bytes()
    second = content.index(b"\xf5\xc0\xff\xc1", 20)
    path.write_bytes(content[:second] + strange + content[second:])
    with pytest.raises(LogError, match="not a record this program knows"):
        list(log.records())
    skipped: list[Damage] = []
    assert len(list(log.records(skipped=skipped))) == 3
    assert [damage.bytes for damage in skipped] == [len(strange)]


def test_recovery_keeps_records_of_a_kind_it_does_not_know(log):
    """A segment holding nothing but a newer program's records was taken for an empty one and deleted."""
    path = unsealed(log.root)
    path.write_bytes(path.read_bytes() + UNKNOWN)
    assert log.recover() == 1
    (segment,) = log.segments()
    assert (segment.records, segment.first_served_at) == (0, None)
    assert UNKNOWN in segment.path.read_bytes()
    with pytest.raises(LogError, match="not a record this program knows"):
        list(log.records())


# A full disk


FILLER = """
import resource, sys
from pathlib import Path
from mlops_assets.stores.prediction_log import LogError, LogWriter
from mlops_assets_tests.stores.examples import prediction

writer = LogWriter(Path(sys.argv[1]), "w")
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), unlimited[1]))
acknowledged, refused, n = [], 0, 0
while refused < 3:
    batch = [prediction(k) for k in range(n, n + 7)]
    n += 7
    try:
        writer.append(batch)
        acknowledged += batch
    except LogError as error:
        assert "nothing was written" in str(error), error
        refused += 1
try:
    writer.append([prediction(n)])
    acknowledged.append(prediction(n))
except LogError:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
writer.append([prediction(n + 1)])
acknowledged.append(prediction(n + 1))
print(*(record.id for record in acknowledged))
if sys.argv[3] == "close":
    writer.close()
"""


@pytest.mark.parametrize("end", ["close", "die"])
@pytest.mark.parametrize("limit", [9_000, 9_100, 9_200, 9_500])
def test_on_a_full_disk_nothing_unacknowledged_stays_and_it_goes_on_when_there_is_room(log, limit, end):
    run = subprocess.run(
        [sys.executable, "-c", FILLER, str(log.root), str(limit), end], capture_output=True, text=True, check=True
    )
    log.recover()
    assert [record.id for record in log.records(include_open=False)] == run.stdout.split()


def test_a_failed_sync_is_a_failed_append(log, monkeypatch):
    with LogWriterFor(log, durability="disk") as writer:
        writer.append([prediction(0)])
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", _failing(errno.EIO))
            with pytest.raises(LogError, match="nothing was written"):
                writer.append([prediction(1)])
        assert list(log.records()) == [prediction(0)]
        writer.append([prediction(2)])
    assert list(log.records()) == [prediction(0), prediction(2)]


def test_a_failed_write_that_cannot_be_undone_at_once_is_undone_later(log, monkeypatch):
    real = os.write
    with LogWriterFor(log) as writer:
        writer.append([prediction(0)])
        with monkeypatch.context() as broken:
            broken.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:-10]))
            broken.setattr(os, "ftruncate", _failing(errno.EIO))
            for _ in range(2):
                with pytest.raises(LogError, match="cannot cut"):
                    writer.append([prediction(1), prediction(2)])
        writer.append([prediction(3)])
    assert list(log.records()) == [prediction(0), prediction(3)]


def test_an_append_interrupted_after_its_write_is_undone_too(log, monkeypatch):
    """A signal handler's exception between the write and its accounting must not make a later undo cut what was acknowledged."""
    real = os.write

    def interrupted(descriptor: int, content: bytes) -> int:
        real(descriptor, content)
        raise KeyboardInterrupt

    with LogWriterFor(log) as writer:
        writer.append([prediction(0)])
        with monkeypatch.context() as broken:
            broken.setattr(os, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                writer.append([prediction(1)])
        writer.append([prediction(2)])
    assert list(log.records()) == [prediction(0), prediction(2)]


def test_a_segment_that_could_not_be_sealed_is_sealed_by_recovery(log, monkeypatch):
    writer = LogWriterFor(log, max_segment_age_s=0)
    writer.append([prediction(0)])
    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", _failing(errno.ENOSPC))
        with pytest.raises(LogError, match="cannot seal"):
            writer.rotate_if_due()
    writer.append([prediction(1)])
    assert list(log.records()) == [prediction(0), prediction(1)]
    assert log.recover() == 1
    writer.close()
    assert list(log.records(include_open=False)) == [prediction(0), prediction(1)]


def test_a_rotation_without_room_for_a_new_segment_goes_on_in_the_old_one(log, monkeypatch):
    writer = LogWriterFor(log, max_segment_age_s=0)
    writer.append([prediction(0)])
    with monkeypatch.context() as broken:
        broken.setattr(os, "write", _failing(errno.ENOSPC))
        with pytest.raises(LogError):
            writer.rotate_if_due()
    writer.append([prediction(1)])
    writer.close()
    assert [segment.records for segment in log.segments()] == [2]


def _failing(code: int):
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    return fail


# Finding one prediction


def test_all_roles_of_a_request_are_found_across_workers_and_segments(log):
    wanted = prediction(5)
    shadow = msgspec.structs.replace(
        wanted, role="challenger", version=13, served_at=wanted.served_at + timedelta(seconds=1)
    )
    written(log.root, prediction(4), wanted, prediction(6), label(5))
    written(log.root, prediction(7), shadow)
    unsealed(log.root, prediction(8), worker="v")
    assert log.find(wanted.id) == (wanted, shadow)
    assert log.find(prediction(8).id) == (prediction(8),)
    assert log.find("request") == ()
    assert log.find("") == ()


def uuid7(moment: datetime) -> str:
    milliseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return str(uuid.UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | 12345))


def test_the_time_in_the_id_saves_reading_other_segments(log):
    ids = [uuid7(NOON + timedelta(hours=n)) for n in range(6)]
    paths = [
        written(log.root, prediction(id=each, served_at=NOON + timedelta(hours=n)), worker=f"w{n}")
        for n, each in enumerate(ids)
    ]
    for path in (*paths[:2], *paths[3:]):
        damaged(path, at_record=0)
    assert [record.id for record in log.find(ids[2])] == [ids[2]]


def test_a_callers_own_uuid7_from_another_time_is_found_all_the_same(log):
    own = uuid7(NOON - timedelta(days=400))
    written(log.root, prediction(id=own))
    written(log.root, prediction(1))
    assert [record.id for record in log.find(own)] == [own]


def test_a_prediction_in_a_damaged_stretch_is_not_simply_missing(log):
    path = written(log.root, prediction(0), prediction(1))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"EWR")] ^= 1
    path.write_bytes(content)
    assert log.find(prediction(0).id) == (prediction(0),)
    with pytest.raises(LogError, match=r"request-000001 cannot be read: .*damaged"):
        log.find(prediction(1).id)
