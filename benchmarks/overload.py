"""Five times as many requests as can be answered: how long those wait that are answered, how soon the others are told, and after.

The scorer is slowed to 2 ms, so that the client's core is not what gives way, and `MLOPS_MAX_WAIT_MS` is not set. Requests come at
a fixed rate, in phases: few, too many, few again. What is refused with 503 is counted apart from what is lost; recovery is the time
from the end of the flood to the first stretch of requests that are all answered about as fast as before it.

Run: ``make bench-overload``
"""

import sys
import threading
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.common import ROOT, Figures, save, table
from benchmarks.open_loop import Answers, asking
from benchmarks.servers import Server, measure, pin_client, require_tools, running
from benchmarks.serving_state import PATH, key_headers, prepared, single_bodies

NAME: Final = "overload"
SCORER_MS: Final = 2.0
FLOOD: Final = 5.0
CALM: Final = 0.2
FLOOD_S: Final = 30.0
CALM_S: Final = 10.0
WARM_UP_S: Final = 2.0
AGAIN_AS_BEFORE: Final = 20  # requests in a row: one waits here and there before the flood too
_LOOK_S: Final = 0.2


@dataclass(frozen=True)
class Phases:
    """What became of the requests before, in and after the flood, and when that ended."""

    before: Answers
    flood: Answers
    after: Answers
    ended: float


def main(flood_s: float = FLOOD_S, calm_s: float = CALM_S) -> None:
    """Measure, print the table and write the figures."""
    require_tools()
    pin_client()
    state = prepared()
    home = state.home("overload")
    headers = key_headers(home)
    bodies = state.body_file("single", single_bodies(state.rows()))
    target = str(ROOT / "benchmarks" / "slow_service")
    environment = {"MLOPS_AUTH": "keys", "BENCH_SCORER_MS": str(SCORER_MS)}
    arguments = ("serve", "--port", "{port}", "--bento", target)
    with running("mlops_assets.cli", *arguments, folder=home.root, ready="/readyz", environment=environment) as server:
        # As many connections as keep it busy without a queue.
        capacity = measure(server, PATH, bodies, 2, 3.0, headers).rps
        calm, flood = CALM * capacity, FLOOD * capacity
        phases = [(calm, WARM_UP_S), (calm, calm_s), (flood, flood_s), (calm, calm_s)]
        with _Memory(server) as memory, asking(server.url + PATH, bodies, phases, headers) as client:
            answers = client.answers()
    first = float(answers.due[0])
    cuts = np.cumsum([first + WARM_UP_S, calm_s, flood_s])
    found = Phases(
        answers.between(cuts[0], cuts[1]), answers.between(cuts[1], cuts[2]), answers.between(cuts[2], np.inf), cuts[2]
    )
    figures = _figures(found, capacity, memory)
    table(
        f"A scorer of {SCORER_MS:g} ms, {flood:,.0f} requests a second for {flood_s:g} s where {capacity:,.0f} can be answered",
        ["", "requests", "answered %", "503 %", "lost %", "p50 ms", "p99 ms", "503 p99 ms"],
        [
            [name, len(one.due), *(100 * _share(one, status) for status in ("answered", "refused", "lost")),
             _ms(one, 200, 50), _ms(one, 200, 99), _ms(one, 503, 99)]
            for name, one in (("before", found.before), ("flood", found.flood), ("after", found.after))
        ],
    )  # fmt: skip
    table(
        "In the flood, and after it",
        ["", ""],
        [
            ["p99 in the flood over p99 before", figures["p99_ratio"]],
            ["answered while it lasts, of what can be answered", figures["goodput"]],
            ["memory in the flood over memory before", figures["rss_ratio"]],
            ["seconds until it answers as before", figures["recovery_s"]],
        ],
    )
    save(NAME, figures)


class _Memory:
    """Looks at a server's memory now and then, for the length of a block."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.seen: list[tuple[float, float]] = []

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def most(self, start: float, end: float) -> float:
        return max(mb for at, mb in self.seen if start <= at < end)

    def _look(self) -> None:
        while not self._over.wait(_LOOK_S):
            self.seen.append((time.monotonic(), self._server.worker_rss_mb()))


def _figures(found: Phases, capacity: float, memory: _Memory) -> Figures:
    before, flood = found.before, found.flood
    calm_p99 = _ms(before, 200, 99)
    calm_mb = memory.most(before.due[0], before.due[-1])
    seconds = float(flood.due[-1] - flood.due[0])
    return {
        "capacity_rps": capacity,
        "p99_ratio": _ms(flood, 200, 99) / calm_p99,
        "p99_ms": _ms(flood, 200, 99),
        "p99_calm_ms": calm_p99,
        "answered_pct": 100 * _share(flood, "answered"),
        "refused_pct": 100 * _share(flood, "refused"),
        "lost_pct": 100 * _share(flood, "lost"),
        "refused_p50_ms": _ms(flood, 503, 50),
        "refused_p99_ms": _ms(flood, 503, 99),
        "goodput": float(((flood.status == 200) & (flood.done <= found.ended)).sum()) / seconds / capacity,
        "rss_ratio": memory.most(flood.due[0], flood.due[-1]) / calm_mb,
        "recovery_s": _recovery_s(found, 2 * calm_p99),
        "errors_calm": int((before.status != 200).sum()),
    }


def _recovery_s(found: Phases, limit_ms: float) -> float:
    """NaN where it does not answer as before within the phase."""
    after = found.after
    good = (after.status == 200) & (np.nan_to_num(after.ms, nan=np.inf) <= limit_ms)
    run = np.convolve(good, np.ones(AGAIN_AS_BEFORE), "valid") == AGAIN_AS_BEFORE
    return float(after.due[int(run.argmax())] - found.ended) if run.any() else float("nan")


def _share(answers: Answers, what: str) -> float:
    answered, refused = answers.status == 200, answers.status == 503
    chosen = {"answered": answered, "refused": refused, "lost": ~(answered | refused)}[what]
    return float(chosen.mean())


def _ms(answers: Answers, status: int, percentile: float) -> float:
    chosen = answers.ms[answers.status == status]
    return float(np.percentile(chosen, percentile)) if len(chosen) else float("nan")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:3]))
