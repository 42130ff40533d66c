"""An append that fails leaves nothing behind, and the next one that can goes on."""

import errno
import os
import subprocess
import sys

import pytest

from mlops_assets.stores.prediction_log import LogError
from mlops_assets_tests.stores.examples import prediction
from mlops_assets_tests.stores.prediction_log.segments import LogWriterFor

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
