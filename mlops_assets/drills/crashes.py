"""Drills of the machine: killed processes, damaged files, a locked database, a full disk. None of them is the model's fault."""

import os
import resource
import signal
import sqlite3
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from mlops_assets.drills.stage import Stage
from mlops_assets.drills.trials import lookalike, to_canary
from mlops_assets.stores.home import Home

LOG_MB = 4
LOCKED_S = 12


def crash_service(stage: Stage) -> None:
    """`kill -9` of a worker, of the server, of all of them, in a canary: it goes on where it was, and nothing is lost."""
    system = stage.system
    tried = lookalike(stage, stage.champion() + 1)
    release = to_canary(stage, tried).plan.release
    with stage.under_load(callers=3):
        before = system.worker_pids()
        victim = min(before)
        stage.inject(f"kill -9 of worker {victim}, one of {len(before)}, under load")
        killed = datetime.now(UTC)
        os.kill(victim, signal.SIGKILL)
        stage.wait(lambda: system.worker_pids() - before, "a new worker starts")
        stage.found("the server has started another worker")
        stage.wait(lambda: victim not in system.worker_pids() and system.is_whole(), "all workers answer again")
        stage.goes_on()
        stage.harmless(f"all workers answer; {_unanswered_since(stage, killed)}")
        _kill_server(stage, with_workers=False)
        last = _kill_server(stage, with_workers=True)
        stage.wait(lambda: _answers_since(stage, tried.release.version, last), "the canary answers its share again")
        by_entity = _answered_by(stage, release)
        stage.healed("the supervisor has started the server again, and all workers answer")
    apart = sum(len(versions) > 1 for versions in by_entity.values())
    stage.require(apart == 0, f"each of {len(by_entity)} entities was answered by one version, before and after")


def _unanswered_since(stage: Stage, moment: datetime) -> str:
    """How many requests that were sent since then their callers have to send again, in words."""
    outcomes = [one.outcome for one in stage.tally.asked if one.at >= moment]
    failed = sum(outcome != "answered" for outcome in outcomes)
    return f"{failed:,} of {len(outcomes):,} requests since were not answered"


def _answers_since(stage: Stage, version: int, moment: datetime) -> bool:
    return any(one.version == version and one.at > moment for one in stage.tally.acknowledged)


def _answered_by(stage: Stage, release: int) -> dict[str, set[int]]:
    """The versions that answered each entity in a release."""
    entities = {one.id: one.entity for one in stage.tally.asked}
    found = defaultdict(set)
    for one in stage.tally.acknowledged:
        if one.release == release:
            found[entities[one.id]].add(one.version)
    return found


def _kill_server(stage: Stage, *, with_workers: bool) -> datetime:
    """The server alone leaves workers behind, which hold the address that the next one needs. Returns when it was killed."""
    system = stage.system
    server, workers = system.server_pid(), system.worker_pids()
    stage.step(
        f"BROKEN: kill -9 of the server {server}" + (" and of its workers" if with_workers else ", not of its workers")
    )
    kill_server(stage, with_workers=with_workers)
    killed = datetime.now(UTC)
    stage.wait(lambda: not (workers & system.worker_pids()) and system.is_whole(), "the supervisor starts it again")
    whole = (datetime.now(UTC) - killed).total_seconds()
    stage.wait(lambda: newer(stage.tally.last_answer, killed), "callers are answered again")
    stage.goes_on()
    stage.step(f"all workers answer again {whole:.1f} s after the server's death; {_unanswered_since(stage, killed)}")
    return killed


def kill_server(stage: Stage, *, with_workers: bool = True) -> None:
    """SIGKILL to the process that the supervisor has started, and to its workers."""
    server, workers = stage.system.server_pid(), stage.system.worker_pids()
    for pid in (server, *(workers if with_workers else ())):
        os.kill(pid, signal.SIGKILL)


def full_disk(stage: Stage) -> None:
    """No room for the log: callers get 503, nothing acknowledged is lost, and answers go on when there is room again."""
    with stage.under_load(), ExitStack() as until_room:
        stage.goes_on()
        stage.inject(until_room.enter_context(_no_room(stage)))
        broken = datetime.now(UTC)
        stage.wait(lambda: newer(stage.tally.last_refusal, broken), "callers are refused", 60)
        stage.found("callers get 503")
        refused, answered = stage.tally.refused, len(stage.tally.acknowledged)
        stage.wait(lambda: stage.tally.refused > refused + 20, "more callers are refused")
        stage.require(stage.system.is_answering(), "the service lives, and says so")
        stage.step(f"{stage.tally.refused} refused, {len(stage.tally.acknowledged) - answered} answered meanwhile")
        stage.harmless("no answer is given that cannot be logged")
        until_room.close()
        there = datetime.now(UTC)
        stage.step("there is room again")
        stage.wait(lambda: newer(stage.tally.last_answer, there), "callers are answered again", 60)
        stage.goes_on()
        stage.healed("callers are answered, nobody had to restart anything")


@contextmanager
def _no_room(stage: Stage) -> Iterator[str]:
    """A log that cannot grow: on a small file system where one may be mounted, else by a limit on the files of the workers."""
    log = stage.stores.home.prediction_log
    if os.path.ismount(log):
        filler = log / "filler"
        with filler.open("wb", buffering=0) as file:
            left = os.statvfs(log)
            for size in (left.f_bavail * left.f_bsize, 4096, 256, 1):
                _fill(file.write, bytes(max(size, 1)))
        try:
            yield f"the log's file system of {LOG_MB} MB is full"
        finally:
            filler.unlink()
        return
    workers = sorted(stage.system.worker_pids())
    former = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in workers}
    for pid, (_, hard) in former.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield "no file of the workers may grow (no file system can be mounted here)"
    finally:
        for pid, limits in former.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def _fill(write: Callable[[bytes], int | None], content: bytes) -> None:
    try:
        while write(content):
            pass
    except OSError:  # what it is for
        return


def small_log(home: Home) -> None:
    """Put the log on a file system of a few megabytes, where that is allowed."""
    log = home.prediction_log
    log.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={LOG_MB}m", "drill", str(log)]
    with suppress(FileNotFoundError):
        subprocess.run(mount, capture_output=True, check=False)


def locked_database(stage: Stage) -> None:
    """The ledger's and Dagster's databases are locked by others for some seconds: answers go on, and so does the monitor later."""
    home = stage.stores.home
    with stage.under_load():
        stage.after_a_look()
        stage.stores.ledger.head()  # so that there is a ledger
        databases = [Path(home.root / "ledger.db"), *sorted(home.dagster.rglob("*.db"))]
        with ExitStack() as locks:
            stage.inject(f"{len(databases)} databases are held by an exclusive transaction for {LOCKED_S} s")
            refused = stage.tally.refused + stage.tally.failed + stage.tally.unanswered
            for path in databases:
                locks.enter_context(_exclusively(path, stage))
            began = stage.seconds
            stage.goes_on()
            stage.wait(lambda: stage.seconds - began >= LOCKED_S, "the time is over", LOCKED_S + 5)
        trouble = stage.tally.refused + stage.tally.failed + stage.tally.unanswered - refused
        stage.require(trouble == 0, "no caller has noticed")
        stage.step("the databases can be written again")
        stage.after_a_look()
    stage.judged(stage.window(0))
    stage.wait(lambda: stage.record.decisions or None, "the model is looked at, and a decision is written down")
    stage.require(stage.stores.ledger.verify().intact, "the ledger is intact")
    stage.healed("the monitor and the response go on")


@contextmanager
def _exclusively(path: Path, stage: Stage) -> Iterator[None]:
    connection = sqlite3.connect(path, timeout=20, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def newer(moment: datetime | None, than: datetime) -> bool:
    """Is there such a moment, and is it later?"""
    return moment is not None and moment > than
