"""Writes docs/serving.md from the figures in benchmarks/results, so that no number is copied by hand.

Run: ``python -m benchmarks.document_serving``, after the benchmarks. It measures nothing.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Final

from benchmarks.common import RESULTS, ROOT

TARGET: Final = ROOT / "docs" / "serving.md"
WHO: Final = {
    "limit": "the limit: bare ASGI echo, uvloop and httptools",
    "ours": "ours: keys, durable log, a canary of 10 %, metrics, hot swap",
    "shadow": "the same, with every request scored in shadow",
    "bentoml": "BentoML as it comes + scikit-learn",
    "fastapi": "FastAPI + joblib",
    "mlflow": "`mlflow models serve`",
}
SIZES: Final = {"single": "Single rows", "batch": "Batches of 100 rows"}
CONNECTIONS: Final = (1, 16, 64)

Found = dict[str, float]


def main() -> None:
    """Write the page, from the results that are there."""
    parts = [HEAD, *_targets(), *_speed(), *_swaps(), *_log(), *_overload(), *_memory()]
    TARGET.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _targets() -> Iterable[str]:
    """What was aimed at, and whether it was reached."""
    yield TARGETS
    rows = []
    for name, key, title, limit, least in AIMS:
        value = _results(name).get(key)
        reached = "–" if value is None else "yes" if (value >= limit if least else value <= limit) else "**no**"
        aim = f"{'≥' if least else '≤'} {limit:,g}"
        rows.append((title, aim, _text(value), reached))
    yield from _table(("", "aim", "measured", "reached"), rows)


def _speed() -> Iterable[str]:
    found = _results("serving")
    yield SPEED
    if not found:
        yield NOTHING
        return
    for size, title in SIZES.items():
        yield f"\n**{title}**\n"
        header = ["", *(f"c={c}: req/s, p50 / p99 ms" for c in CONNECTIONS), "CPU µs (c=16)", "× limit", "× ours"]
        rows = []
        for who, name in WHO.items():
            speeds = [
                f"{_f(found, f'rps_{who}_{size}_c{c}')}, {_f(found, f'p50_ms_{who}_{size}_c{c}')} / "
                f"{_f(found, f'p99_ms_{who}_{size}_c{c}')}"
                for c in CONNECTIONS
            ]
            of = f"{who}_{size}_c16"
            rows.append(
                (name, *speeds, *(_f(found, f"{what}_{of}") for what in ("cpu_us", "cpu_to_limit", "cpu_to_ours")))
            )
        yield from _table(header, rows)
    single, batch = (_f(found, f"shadow_dropped_pct{of}") for of in ("", "_batch"))
    yield "\nRows that found the shadow's queue full and were not scored in shadow: of single rows "
    yield f"{single} %; of batches {batch} %, so that the shadow's row there is not the price of shadowing all.\n"


def _swaps() -> Iterable[str]:
    found = _results("hot_swap")
    yield SWAPS
    if not found:
        yield NOTHING
        return
    yield from _table(
        ("", "errors", "p99 ms", "longest stall ms"),
        [
            ("nothing happens", *(_f(found, key) for key in ("errors_calm", "p99_calm_ms", "stall_calm_ms"))),
            (f"{_f(found, 'swaps')} swaps", *(_f(found, key) for key in ("errors", "p99_ms", "stall_ms"))),
        ],
    )
    yield (
        f"\nTo the last answer of a bad version, the longest of {_f(found, 'rollbacks')}: {_f(found, 'rollback_s')} s from the "
        f"start of `mlops-assets rollback`, {_f(found, 'rollback_in_process_s')} s from the operation behind it.\n"
    )


def _log() -> Iterable[str]:
    found = _results("prediction_log")
    yield LOG
    if not found:
        yield NOTHING
        return
    rows = []
    for durability, title in (("os", "written to the operating system (default)"), ("disk", "synced to the disk")):
        speeds = [
            f"{_f(found, f'records_per_s_{durability}_{batch}')}, {_f(found, f'cpu_us_{durability}_{batch}')} µs"
            for batch in (1, 100, 1000)
        ]
        counts = [_f(found, f"{what}_{durability}") for what in ("acknowledged", "lost", "twice")]
        rows.append((title, *speeds, *counts))
    header = (
        "records/s and CPU of each",
        "one by one",
        "by 100",
        "by 1,000",
        f"acknowledged before {_f(found, 'kills')} kills",
        "lost",
        "twice",
    )
    yield from _table(header, rows)


def _overload() -> Iterable[str]:
    found = _results("overload")
    yield OVERLOAD
    if not found:
        yield NOTHING
        return
    keys = {
        "capacity_rps": "requests a second that can be answered",
        "p99_calm_ms": "p99 of a fifth of that, ms",
        "p99_ms": "p99 of those answered in the flood, ms",
        "p99_ratio": "the one over the other",
        "goodput": "answered while it lasts, of what can be answered",
        "answered_pct": "answered, % of what was asked",
        "refused_pct": "refused with 503, %",
        "refused_p99_ms": "p99 of the refusals, ms",
        "lost_pct": "neither, %",
        "rss_ratio": "memory in the flood over memory before",
        "recovery_s": "seconds until it answers as before",
    }
    yield from _table(("", ""), [(title, _f(found, key)) for key, title in keys.items()])


def _memory() -> Iterable[str]:
    found = _results("memory")
    yield MEMORY
    if not found:
        yield NOTHING
        return
    yield from _table(
        ("after the warm-up, MB", "at the end, MB", "growth, %", "at the most, MB"),
        [tuple(_f(found, key) for key in ("rss_warm_mb", "rss_end_mb", "rss_growth_pct", "rss_most_mb"))],
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _results(name: str) -> Found:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _f(found: Found, name: str) -> str:
    return _text(found.get(name))


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


# Benchmark, figure, what it is, limit, and whether more is better.
AIMS: Final = (
    ("serving", "rps_share_of_limit_c16", "requests a second, of the limit's", 0.5, True),
    ("serving", "cpu_ratio_to_limit_c16", "CPU a request over the limit's", 2.0, False),
    ("serving", "cpu_ratio_to_limit_shadow_c16", "… with every request in shadow", 2.4, False),
    ("serving", "bentoml_cpu_ratio", "CPU a request of BentoML + scikit-learn over ours", 100, True),
    ("serving", "fastapi_cpu_ratio", "… of FastAPI + joblib", 100, True),
    ("serving", "mlflow_cpu_ratio", "… of `mlflow models serve`", 100, True),
    ("hot_swap", "errors", "errors under swaps", 0, False),
    ("hot_swap", "extra_stall_ms", "longest stall beyond that without swaps, ms", 20, False),
    ("hot_swap", "rollback_s", "from `mlops-assets rollback` to the last bad answer, s", 1, False),
    ("prediction_log", "records_per_s", "acknowledged records a second", 200_000, True),
    ("prediction_log", "lost", "acknowledged records lost", 0, False),
    ("overload", "p99_ratio", "p99 in overload over p99 unloaded", 2, False),
    ("overload", "recovery_s", "recovery, s", 1, False),
    ("memory", "rss_growth_pct", "growth of memory over a million requests, %", 5, False),
)

NOTHING: Final = "Not measured yet."

HEAD: Final = """# How fast the service is: measurements

How to use it is told in [using-the-service.md](using-the-service.md). This page says how fast it answers and what it survives.
Written by `python -m benchmarks.document_serving` from `benchmarks/results/*.json`, which `make bench-serving` writes. Servers
run on one core and clients on the other; closed-loop load is `wrk`'s. Everybody is measured in one run, one after the other in
rounds, and the median counts. Hold on to the ratios: seconds are those of one machine, and a p99 below 3 ms is noise on a shared
one.

The workload is `flight_delay`, 19 features, three of them categories, trained by the lifecycle. Nobody is measured
before all have given the same hundred answers.
"""
TARGETS: Final = "## What was aimed at\n"
SPEED: Final = """
## Speed: `make bench-serving-speed`
CPU is the processor time of all of a server's processes over the requests answered, until what is left to do after the replies is
done. Ours runs as `mlops-assets serve` starts it. The peers are written as their documentation has it; none of them checks keys
or logs what it answers. Ours answers single rows inside the HTTP protocol ([who-answers.md](who-answers.md)), without the task,
scope and messages that ASGI makes for each request: of what the limit pays for, it can do without a part.
"""
SWAPS: Final = """
## New versions under load: `make bench-hot-swap`
2,000 requests a second, come what may, for a minute without and a minute with a version every two seconds that no worker has seen
before. Latency counts from the moment a request was due.
"""
LOG: Final = """
## The log: `make bench-prediction-log`
"""
OVERLOAD: Final = """
## Five times too many requests: `make bench-overload`
A scorer slowed to 2 ms; 30 s of five times as many requests as can be answered, between two calm stretches, over up to 512
connections. Nothing is set: the worker finds by itself that it is a flood, and holds what a request waits to about what one takes
([observability.md](observability.md)). Latency counts from the moment a request was due.
"""
MEMORY: Final = """
## Memory: `make bench-memory`
A million requests, one in a hundred a batch of a hundred rows.
"""

if __name__ == "__main__":
    main()
