import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from mlops_assets.stores.workers import LoadedRelease, WorkerError, WorkerState, WorkerStore

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MAX_AGE = timedelta(seconds=10)


def state(worker: str = "w-1", *, age_s: float = 0, **changes) -> WorkerState:
    values = {
        "worker": worker,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started_at": NOW - timedelta(hours=1),
        "heartbeat_at": NOW - timedelta(seconds=age_s),
        "models": {"flight_delay": LoadedRelease(7, 12, "sha256:aa", NOW)},
        "errors": {"air_time": "bundle sha256:bb is damaged"},
    }
    return WorkerState(**values | changes)


@pytest.fixture
def store(tmp_path) -> WorkerStore:
    return WorkerStore(tmp_path / "workers")


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_report_reads_back_and_replaces_the_former(store):
    assert store.live(NOW, MAX_AGE) == ()
    store.report(state(age_s=5))
    store.report(state("w-0"))
    store.report(state())
    assert store.live(NOW, MAX_AGE) == (state("w-0"), state())
    assert sorted(path.name for path in store.root.iterdir()) == ["w-0.json", "w-1.json"]


def test_only_a_recent_heartbeat_counts(store):
    store.report(state("at-the-limit", age_s=10))
    store.report(state("late", age_s=10.1))
    store.report(state("clock-ahead", age_s=-3))
    assert [each.worker for each in store.live(NOW, MAX_AGE)] == ["at-the-limit", "clock-ahead"]


def test_a_dead_process_counts_only_where_it_cannot_be_looked_up(store, dead_pid):
    store.report(state("here", pid=dead_pid))
    store.report(state("elsewhere", pid=dead_pid, host="another-machine"))
    store.report(state("not-ours", pid=1))
    assert [each.worker for each in store.live(NOW, MAX_AGE)] == ["elsewhere", "not-ours"]


def test_workers_are_forgotten(store, dead_pid):
    store.report(state("stopped"))
    store.report(state("killed", pid=dead_pid))
    store.report(state("silent", age_s=60))
    store.report(state("serving"))
    store.remove("stopped")
    store.remove("stopped")
    assert store.sweep(NOW, MAX_AGE) == 2
    assert [path.name for path in store.root.iterdir()] == ["serving.json"]


def test_an_unreadable_report_is_named_and_an_empty_one_is_of_before_a_power_loss(store):
    store.report(state())
    (store.root / "empty.json").write_bytes(b"")
    assert store.live(NOW, MAX_AGE) == (state(),)
    for content in (b'{"worker":', b'{"worker":"\xff"}'):
        (store.root / "torn.json").write_bytes(content)
        with pytest.raises(WorkerError, match=r"torn\.json is not a worker's report"):
            store.live(NOW, MAX_AGE)


@pytest.mark.parametrize("name", ["", "../w", ".incoming-1", "a/b", "a b"])
def test_names_are_plain(store, name):
    with pytest.raises(ValueError, match="cannot name a worker"):
        store.report(state(name))
