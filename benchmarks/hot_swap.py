"""New versions under 2,000 requests a second: errors, the longest stall against runs without swaps, the way back from a bad one.

Every swap is to a version that no worker has seen before, whose bundle is read, verified and warmed up. Runs with and without swaps
alternate. The way back is timed from the start of the command, and of the operation behind it in a process that is there already,
to the last answer of the bad version. The command finds its byte code compiled, as an installation has it, wherever it is kept;
a first way back, which is not counted, sees to that.

Run: ``make bench-hot-swap``
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.common import ROOT, save, table
from benchmarks.open_loop import Answers, asking
from benchmarks.servers import CannotMeasure, Headers, Server, pin_client, require_tools, running
from benchmarks.serving_state import (
    FOLDER,
    MODEL,
    PATH,
    ServingState,
    key_headers,
    prepared,
    publish_next,
    single_bodies,
)
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.rollback import roll_back
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import wait_until_live
from mlops_assets.stores.home import Home

NAME: Final = "hot_swap"
RATE: Final = 2_000.0
SECONDS: Final = 60.0
EVERY_S: Final = 2.0
ROUNDS: Final = 2
WARM_UP_S: Final = 2.0
ROLLBACKS: Final = 3
_BEFORE_S: Final = 2.0
_AFTER_S: Final = 1.5
_LONGEST_S: Final = 120.0


@dataclass(frozen=True)
class Served:
    """The service on the whole trained state, so that the operations of a release work on it."""

    state: ServingState
    spec: ModelSpec
    home: Home
    server: Server
    headers: Headers
    bodies: Path

    @property
    def url(self) -> str:
        return self.server.url + PATH


def main(seconds: float = SECONDS, rollbacks: int = ROLLBACKS) -> None:
    """Measure, print the tables and write the figures."""
    require_tools()
    pin_client()
    state = prepared()
    with _served(state) as served:
        calm, swapped, swaps = _runs(served, seconds / ROUNDS)
        ways: dict[str, list[float]] = {"in_process": [], "command": []}
        version = 10_000
        _way_back(served, version, _by_command)
        for _ in range(rollbacks):
            for name, back in (("in_process", _in_process), ("command", _by_command)):
                version += 1
                ways[name].append(_way_back(served, version, back))
    calm_ms, swapped_ms = _latencies(calm), _latencies(swapped)
    figures: dict[str, float | int | None] = {
        "errors": _errors(swapped),
        "errors_calm": _errors(calm),
        "requests": sum(len(one.due) for one in swapped),
        "swaps": swaps,
        "stall_ms": float(swapped_ms.max()),
        "stall_calm_ms": float(calm_ms.max()),
        "extra_stall_ms": float(swapped_ms.max() - calm_ms.max()),
        "p99_ms": float(np.percentile(swapped_ms, 99)),
        "p99_calm_ms": float(np.percentile(calm_ms, 99)),
        "rollback_s": max(ways["command"]),
        "rollback_in_process_s": max(ways["in_process"]),
        "rollbacks": rollbacks,
    }
    table(
        f"{RATE:,.0f} requests a second for {seconds:g} s, a new version every {EVERY_S:g} s",
        ["", "requests", "errors", "p99 ms", "longest stall ms"],
        [
            ["nothing happens", sum(len(one.due) for one in calm), _errors(calm), figures["p99_calm_ms"], figures["stall_calm_ms"]],
            [f"{swaps} swaps", figures["requests"], figures["errors"], figures["p99_ms"], figures["stall_ms"]],
        ],
    )  # fmt: skip
    table(
        f"Seconds to the last answer of the bad version, the longest of {rollbacks}",
        ["", "s"],
        [
            ["`mlops-assets rollback`, from its start", figures["rollback_s"]],
            ["in a process that is there", figures["rollback_in_process_s"]],
        ],
    )
    save(NAME, figures)


@contextlib.contextmanager
def _served(state: ServingState) -> Iterator[Served]:
    state.ground.restore((MODEL,))
    home = state.ground.home
    with state.ground.environment():
        os.environ["PYTHONPATH"] = str(ROOT)
        headers = key_headers(home)
        bodies = state.body_file("single", single_bodies(state.rows()))
        environment = {"MLOPS_AUTH": "keys"}
        with running(
            "mlops_assets.cli", "serve", "--port", "{port}", folder=home.root, ready="/readyz", environment=environment
        ) as server:
            yield Served(state, state.spec, home, server, headers, bodies)


def _runs(served: Served, seconds: float) -> tuple[list[Answers], list[Answers], int]:
    """Runs without and with swaps, and how many swaps there were. Raises `CannotMeasure` where one was not seen by callers."""
    calm, swapped, swaps = [], [], 0
    for round_ in range(ROUNDS):
        calm.append(_asked(served, seconds, lambda: None))
        first = 100 * (round_ + 1)
        entrants = [served.state.entrant(served.home, first + place) for place in range(int((seconds - 1) / EVERY_S))]

        def swap(entrants: list = entrants) -> None:  # type: ignore[type-arg]
            begun = time.monotonic()
            for place, entrant in enumerate(entrants):
                time.sleep(max(0.0, begun + 1 + place * EVERY_S - time.monotonic()))
                publish_next(served.home, entrant, "swap")

        swapped.append(_asked(served, seconds, swap))
        seen = set(swapped[-1].version[swapped[-1].status == 200].tolist())
        if missed := [entrant.release.version for entrant in entrants if entrant.release.version not in seen]:
            raise CannotMeasure(f"versions {missed} never answered: {served.home.root / 'server.log'} may say why")
        swaps += len(entrants)
    return calm, swapped, swaps


def _asked(served: Served, seconds: float, meanwhile: Callable[[], None]) -> Answers:
    phases = [(RATE, WARM_UP_S), (RATE, seconds)]
    with (
        ThreadPoolExecutor(1) as pool,
        asking(served.url, served.bodies, phases, served.headers) as client,
    ):
        time.sleep(WARM_UP_S)
        doing = pool.submit(meanwhile)
        answers = client.answers()
        doing.result()
    return answers.between(answers.due[0] + WARM_UP_S, np.inf)


def _way_back(served: Served, version: int, back: Callable[[Served], None]) -> float:
    """Put a bad version into service, and time the way back from it."""
    plan = publish_next(served.home, served.state.entrant(served.home, version), "a bad version")
    wait_until_live(served.home, MODEL, plan.release)
    with asking(served.url, served.bodies, [(RATE / 4, _LONGEST_S)], served.headers) as client:
        time.sleep(_BEFORE_S)
        begun = time.monotonic()
        back(served)
        time.sleep(_AFTER_S)
        client.stop()
        answers = client.answers()
    bad = answers.version == plan.champion.version
    if not (bad & (answers.done < begun)).any() or bad[-1]:
        raise CannotMeasure(f"version {version} did not answer before the way back, or still did after it")
    return max(float(answers.done[bad].max()) - begun, 0.0)


def _in_process(served: Served) -> None:
    good = served.state.plan().champion.version
    now = datetime.now(UTC)
    roll_back(served.spec, Stores(served.home), good, reason="benchmark", decided_by="benchmark", now=now)


def _by_command(served: Served) -> None:
    good = str(served.state.plan().champion.version)
    command = [sys.executable, "-m", "mlops_assets.cli", "rollback", MODEL, "--reason", "benchmark", "--to", good]
    # An installation has its byte code compiled; this one may stand where none can, or may, be written.
    installed = {**os.environ, "PYTHONPYCACHEPREFIX": str(FOLDER / "bytecode")}
    installed.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=installed
    )
    if done.returncode:
        raise CannotMeasure(f"mlops-assets rollback failed:\n{done.stdout[-2000:]}")


def _latencies(runs: list[Answers]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Of what was answered; an error has no latency."""
    return np.concatenate([one.ms[one.status == 200] for one in runs])


def _errors(runs: list[Answers]) -> int:
    return sum(int((one.status != 200).sum()) for one in runs)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]), *map(int, sys.argv[2:3]))
