"""Other processes that write to a ledger at the same time, some until they are killed."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

from mlops_assets.core.ledger import Frozen, Joined
from mlops_assets.stores.ledger import Ledger
from mlops_assets_tests.core.ledger_examples import entry, opened


def in_processes(count: int, what: Callable[[str, int], Any], url: str) -> list[Any]:
    """What so many processes return that do the same at the same time."""
    with multiprocessing.get_context("fork").Pool(count) as pool:
        return pool.starmap(what, [(url, number) for number in range(count)])


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


def kill_a_writer(url: str, after: int) -> int:
    """Start a process that writes two lines at a time, and kill it after so many. How often was it told that they are written?"""
    told, tells = os.pipe()
    writer = os.fork()
    if writer == 0:
        try:
            ledger = Ledger(url)
            while True:
                ledger.record(entry("i-1", opened()), entry("i-1", Joined("info")))
                os.write(tells, b".")
        finally:
            os._exit(1)
    os.close(tells)
    with open(told, "rb", buffering=0) as heard:
        times = 0
        while times < after:
            news = heard.read(after - times)
            assert news, "the writer has ended by itself"
            times += len(news)
        os.kill(writer, signal.SIGKILL)
        times += len(heard.readall())
    assert os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) == -signal.SIGKILL
    return times
