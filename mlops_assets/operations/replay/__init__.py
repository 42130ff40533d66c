"""A policy tried on history: the same windows, verdicts and decisions as in service, without HTTP, daemon or registry server.

Every policy runs in a folder of its own, from the same first model on. What is printed of it is the business of the CLI.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

from mlops_assets.operations.replay.policy import (
    DECLARED,
    FOUR_WEEKLY,
    NEVER,
    WEEKLY,
    Policy,
    PolicyResult,
    Step,
    policies_of,
)
from mlops_assets.operations.replay.run import Run
from mlops_assets.operations.replay.stores import MemoryRegistry, ReplayStores
from mlops_assets.stores.home import Home

__all__ = [
    "DECLARED",
    "FOUR_WEEKLY",
    "NEVER",
    "WEEKLY",
    "MemoryRegistry",
    "Policy",
    "PolicyResult",
    "Step",
    "policies_of",
    "replay",
    "replay_all",
]


def replay_all(
    policies: tuple[Policy, ...],
    begin: datetime,
    end: datetime,
    label_delay: timedelta,
    *,
    processes: int = 1,
    show: Callable[[PolicyResult], None] = lambda result: None,
) -> tuple[PolicyResult, ...]:
    """Try policies on the same history, in `processes` of their own where more than one, and report each as it is done."""
    if processes <= 1:
        results = []
        for policy in policies:
            results.append(replay(policy, begin, end, label_delay))
            show(results[-1])
        return tuple(results)
    with ProcessPoolExecutor(processes) as pool:
        waiting = [pool.submit(replay, policy, begin, end, label_delay) for policy in policies]
        for one in waiting:
            show(one.result())
    return tuple(one.result() for one in waiting)


def replay(policy: Policy, begin: datetime, end: datetime, label_delay: timedelta) -> PolicyResult:
    """Try one policy from `begin` to `end`, with every label known `label_delay` after its event.

    The first model is trained on what was known at `begin`.

    Raises
    ------
    ValueError
        When there are no rows between, or nothing to train the first model on.
    """
    started = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="mlops-replay-"))
    try:
        run = Run(policy, ReplayStores(Home(folder)), begin, end, label_delay)
        run.go()
        return run.result(time.perf_counter() - started)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
