"""Other processes that write to a ledger at the same time, some until they are killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from mlops_assets.core.ledger import Frozen, Joined
from mlops_assets.stores.ledger import Ledger
from mlops_assets_tests.core.ledger_examples import entry, opened


def in_processes(count: int, what: Callable[[str, int], Any], url: str) -> list[Any]:
    """What so many processes return that do the same at the same time.

    They begin afresh: a fork of a process with threads, as other tests leave it, may wait for ever for a lock that nobody holds.
    """
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(what, [url] * count, range(count)))


def open_and_record(url: str, number: int) -> bool:
    """Open a ledger, perhaps for the first time, and record one incident."""
    return Ledger(url).record(entry(f"i-{number}", opened()))


def record_many(url: str, number: int) -> int:
    """How many of the keys that all processes try were taken from this one."""
    ledger = Ledger(url)
    taken = 0
    for turn in range(20):
        fact = opened(window="w0") if turn == 0 else Joined("info", f"w{turn}")
        assert ledger.record(entry(f"i-{number}", fact, model=f"model_{number}"))
        taken += ledger.record(entry("delay", Frozen("x"), key=f"turn {turn}"))
    return taken


def fork_and_record(url: str, _number: int) -> int:
    """Record a line, and another in a fork that has the ledger open already; the fork's exit code."""
    ledger = Ledger(url)
    ledger.record(entry("i-1", opened()))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if ledger.record(entry("i-1", Joined("info"))) else 2
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ledger.record(entry("i-1", Joined("info")))
    return code


def write_until_killed(url: str) -> None:
    """Write two lines at a time, and say so on the standard output, without end."""
    ledger = Ledger(url)
    while True:
        ledger.record(entry("i-1", opened()), entry("i-1", Joined("info")))
        os.write(1, b".")


def kill_a_writer(url: str, after: int) -> int:
    """Start a process that writes two lines at a time, and kill it after so many. How often was it told that they are written?"""
    code = f"from {__name__} import write_until_killed; write_until_killed({url!r})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, bufsize=0) as writer:
        assert writer.stdout is not None
        times = 0
        while times < after:
            news = writer.stdout.read(after - times)
            assert news, "the writer has ended by itself"
            times += len(news)
        writer.kill()
        times += len(writer.stdout.read() or b"")
    assert writer.returncode == -signal.SIGKILL
    return times
