"""Nothing that was acknowledged is lost when a worker dies at any moment, and nothing half-written is read."""

import os
import random
import shutil
import signal
import subprocess
import sys

from mlops_assets_tests.stores.crash import crashes
from mlops_assets_tests.stores.examples import prediction
from mlops_assets_tests.stores.prediction_log.segments import LogWriterFor, unsealed

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
