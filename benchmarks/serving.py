"""Requests a second and processor time a request, of the service and its peers: single rows and batches, few and many connections.

Everybody runs on one core and is asked by `wrk` from the other, one after the other in rounds, so that a busy machine is unfair to
nobody; those who are not asked are stopped. Processor time is that of all a server's processes, until what comes after the last
reply is done. Everybody must give the same answers.

Run: ``make bench-serving-speed``
"""

import contextlib
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.common import Figures, save, table
from benchmarks.servers import (
    CannotMeasure,
    Headers,
    Load,
    Server,
    measure,
    pin_client,
    require_tools,
    running,
    warm_up,
)
from benchmarks.serving_peers import PIPELINE_VARIABLE
from benchmarks.serving_state import (
    BATCH,
    MODEL,
    PATH,
    Mode,
    Row,
    ServingState,
    batch_bodies,
    key_headers,
    prepared,
    single_bodies,
)

NAME: Final = "serving"
ROUNDS: Final = 3
SECONDS: Final = 2.0
WARM_UP_S: Final = 1.0
CONNECTIONS: Final = (1, 16, 64)
SIZES: Final = ("single", "batch")
TOLERANCE: Final = 1e-9

Cell = tuple[str, int]


@dataclass(frozen=True)
class Contender:
    """Somebody who is measured: how it is started, and what it is sent for one row and for a batch."""

    name: str
    title: str
    server: Server
    path: str
    bodies: dict[str, Path]
    headers: Headers


def main(seconds: float = SECONDS, rounds: int = ROUNDS) -> None:
    """Measure everybody, print the tables and write the figures."""
    require_tools()
    pin_client()
    state = prepared()
    done: dict[tuple[str, Cell], list[Load]] = {}
    with contextlib.ExitStack() as stack:
        contenders = list(_started(state, stack))
        _require_same_answers(contenders)
        for one in contenders:
            one.server.pause()
        shadow = next(one for one in contenders if one.name == "shadow")
        rows, dropped = {}, {}
        for size in SIZES:
            for round_ in range(rounds):
                for one in contenders[round_ % len(contenders) :] + contenders[: round_ % len(contenders)]:
                    one.server.go_on()
                    warm_up(one.server, one.path, one.bodies[size], 16, WARM_UP_S, one.headers)
                    for connections in CONNECTIONS:
                        load = measure(one.server, one.path, one.bodies[size], connections, seconds, one.headers)
                        done.setdefault((one.name, (size, connections)), []).append(load)
                    one.server.pause()
            shadow.server.go_on()
            rows[size], dropped[size] = _shadowed(shadow)
            shadow.server.pause()
        titles = {one.name: one.title for one in contenders}
    medians = {key: _median(loads) for key, loads in done.items()}
    left_out = {
        "shadow_dropped_pct": 100 * dropped["single"] / rows["single"],
        "shadow_dropped_pct_batch": 100 * (dropped["batch"] - dropped["single"]) / (rows["batch"] - rows["single"]),
    }
    figures = {**_figures(titles, medians), **left_out, "rounds": rounds, "seconds": seconds}
    _print(titles, medians)
    save(NAME, figures)
    _require_answered(medians)


# ---- the contenders


def _started(state: ServingState, stack: contextlib.ExitStack) -> Iterator[Contender]:
    rows = state.rows()
    features = [row["features"] for row in rows]
    ours = {
        "single": state.body_file("single", single_bodies(rows)),
        "batch": state.body_file("batch", batch_bodies(rows)),
    }

    def start(module: str, *arguments: str, name: str, ready: str = "/") -> Server:
        folder = state.folder / "peers" / name
        environment = {PIPELINE_VARIABLE: str(state.pipeline), "BENTOML_HOME": str(folder / "bentoml")}
        running_ = running(module, *arguments, folder=folder, ready=ready, environment=environment)
        return stack.enter_context(running_)

    uvicorn = ("--host", "127.0.0.1", "--port", "{port}", "--no-access-log", "--log-level", "warning")
    quick = ("--loop", "uvloop", "--http", "httptools")
    server = start("uvicorn", "benchmarks.serving_peers:limit", *uvicorn, *quick, name="limit")
    yield Contender("limit", "the limit: bare ASGI echo", server, "/", ours, {})

    modes: dict[str, tuple[str, Mode, float]] = {
        "ours": ("ours: everything on, a canary of 10 %", "canary", 0.1),
        "shadow": ("ours: everything on, every request in shadow", "shadow", 1.0),
    }
    for name, (title, mode, share) in modes.items():
        yield _ours(state, stack, name, title, mode, share, ours)

    server = start(
        "bentoml", "serve", "benchmarks.serving_bentoml:Predictor", "--host", "127.0.0.1", "--port", "{port}",
        name="bentoml", ready="/readyz",
    )  # fmt: skip
    bodies = _bodies(state, "bentoml", features, lambda batch: {"rows": batch})
    yield Contender("bentoml", "BentoML as it comes + scikit-learn", server, "/predict", bodies, {})

    server = start("uvicorn", "benchmarks.serving_peers:fastapi_joblib", "--factory", *uvicorn, name="fastapi")
    bodies = _bodies(state, "fastapi", features, lambda batch: batch)
    yield Contender("fastapi", "FastAPI + joblib", server, "/predict", bodies, {})

    server = start(
        "mlflow", "models", "serve", "--model-uri", str(state.mlflow_model), "--env-manager", "local",
        "--host", "127.0.0.1", "--port", "{port}", name="mlflow", ready="/ping",
    )  # fmt: skip
    bodies = _bodies(state, "mlflow", features, lambda batch: {"dataframe_records": batch})
    yield Contender("mlflow", "mlflow models serve", server, "/invocations", bodies, {})


def _ours(
    state: ServingState,
    stack: contextlib.ExitStack,
    name: str,
    title: str,
    mode: Mode,
    share: float,
    bodies: dict[str, Path],
) -> Contender:
    home = state.home(name, mode, share)
    headers = key_headers(home)
    arguments = ("serve", "--port", "{port}")
    server = stack.enter_context(
        running("mlops_assets.cli", *arguments, folder=home.root, ready="/readyz", environment={"MLOPS_AUTH": "keys"})
    )
    live = httpx.get(f"{server.url}/v1/models", headers=dict(headers), trust_env=False).json()["models"][0]
    if [one["place"] for one in live["beside"] if one["place"] == "challenger"] != ["challenger"]:
        raise CannotMeasure(f"the challenger is not loaded: {live}")
    return Contender(name, title, server, PATH, bodies, headers)


def _bodies(state: ServingState, name: str, rows: list[Row], shape: Any) -> dict[str, Path]:
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return {
        "single": state.body_file(f"{name}-single", [msgspec.json.encode(shape([row])) for row in rows]),
        "batch": state.body_file(f"{name}-batch", [msgspec.json.encode(shape(batch)) for batch in batches]),
    }


def _require_same_answers(contenders: Sequence[Contender]) -> None:
    """Everybody but the limit is asked for the same hundred rows. Raises `CannotMeasure` where they differ."""
    answers = {one.name: _probabilities(one) for one in contenders if one.name != "limit"}
    for name, found in answers.items():
        pairs = zip(found, answers["ours"], strict=True)
        if (apart := max(abs(theirs - our) for theirs, our in pairs)) > TOLERANCE:
            raise CannotMeasure(f"{name} answers otherwise than ours, by up to {apart:.2g}: it serves another model")


def _probabilities(one: Contender) -> list[float]:
    body = one.bodies["batch"].read_bytes().splitlines()[0]
    headers = {"Content-Type": "application/json", **one.headers}
    reply = httpx.post(one.server.url + one.path, content=body, headers=headers, trust_env=False, timeout=30)
    if reply.status_code != httpx.codes.OK:
        raise CannotMeasure(f"{one.name} answers {reply.status_code}: {reply.text[:500]}")
    found = reply.json()
    if one.path == PATH:
        return [row["probability"] for row in found["predictions"]]
    return [
        row[1] if isinstance(row, list) else row for row in (found["predictions"] if one.name == "mlflow" else found)
    ]


def _shadowed(shadow: Contender) -> tuple[float, float]:
    """The rows that were to be scored in shadow so far, and those of them that found the queue full."""
    reply = httpx.get(f"{shadow.server.url}/metrics", headers=dict(shadow.headers), trust_env=False)
    counts = {"mlops_predictions_total": 0.0, "mlops_shadow_dropped_rows_total": 0.0}
    for family in text_string_to_metric_families(reply.raise_for_status().text):
        for sample in family.samples:
            if sample.name in counts and sample.labels.get("role") != "shadow" and sample.labels["model"] == MODEL:
                counts[sample.name] += sample.value
    rows, dropped = counts.values()
    return rows, dropped


# ---- figures


def _median(loads: Sequence[Load]) -> Load:
    def of(name: str) -> Any:
        return statistics.median(getattr(load, name) for load in loads)

    names = ("rps", "p50_ms", "p99_ms", "cpu_us")
    return Load(sum(load.requests for load in loads), sum(load.wrong for load in loads), *map(of, names))


def _figures(titles: dict[str, str], medians: dict[tuple[str, Cell], Load]) -> Figures:
    figures: dict[str, float | int | None] = {}
    for name in titles:
        for size, connections in ((size, connections) for size in SIZES for connections in CONNECTIONS):
            load, limit, ours = (medians[who, (size, connections)] for who in (name, "limit", "ours"))
            of = f"{name}_{size}_c{connections}"
            figures |= {
                f"rps_{of}": load.rps,
                f"p50_ms_{of}": load.p50_ms,
                f"p99_ms_{of}": load.p99_ms,
                f"cpu_us_{of}": load.cpu_us,
                f"cpu_to_limit_{of}": load.cpu_us / limit.cpu_us,
                f"cpu_to_ours_{of}": load.cpu_us / ours.cpu_us,
                f"wrong_{of}": load.wrong,
            }
    at = ("single", 16)
    ours, limit = medians["ours", at], medians["limit", at]
    return figures | {
        "rps_share_of_limit_c16": ours.rps / limit.rps,
        "cpu_ratio_to_limit_c16": ours.cpu_us / limit.cpu_us,
        "cpu_ratio_to_limit_shadow_c16": medians["shadow", at].cpu_us / limit.cpu_us,
        **{f"{peer}_cpu_ratio": medians[peer, at].cpu_us / ours.cpu_us for peer in ("bentoml", "fastapi", "mlflow")},
    }


def _print(titles: dict[str, str], medians: dict[tuple[str, Cell], Load]) -> None:
    what = {"single": "Single rows", "batch": f"Batches of {BATCH} rows"}
    columns = [
        column for c in CONNECTIONS for column in (f"c={c} req/s", "p50 ms", "p99 ms", "CPU µs", "× limit", "× ours")
    ]
    for size in SIZES:
        rows: list[list[object]] = []
        for name, title in titles.items():
            row: list[object] = [title]
            for connections in CONNECTIONS:
                load, limit, ours = (medians[who, (size, connections)] for who in (name, "limit", "ours"))
                row += [load.rps, load.p50_ms, load.p99_ms, load.cpu_us]
                row += [load.cpu_us / limit.cpu_us, load.cpu_us / ours.cpu_us]
            rows.append(row)
        table(f"{what[size]}: requests a second, latency, processor time a request", ["", *columns], rows)


def _require_answered(medians: dict[tuple[str, Cell], Load]) -> None:
    wrong = {
        f"{name} {cell}": load.wrong
        for (name, cell), load in medians.items()
        if load.wrong and name in ("ours", "shadow")
    }
    if wrong:
        raise CannotMeasure(f"not everything was answered: {wrong}")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]), *map(int, sys.argv[2:3]))
