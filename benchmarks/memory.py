"""Whether a worker that answers a million requests holds more memory after them than after its warm-up.

Everything is on: keys, log, a canary, metrics, the watcher; the log's segments are sealed on the way, as they are in service. One
request in a hundred is a batch of a hundred rows.

Run: ``make bench-memory``
"""

import sys
from typing import Final

from benchmarks.common import save, table
from benchmarks.servers import CannotMeasure, measure, pin_client, require_tools, running
from benchmarks.serving_state import PATH, batch_bodies, key_headers, prepared, single_bodies

NAME: Final = "memory"
REQUESTS: Final = 1_000_000
WARM_UP: Final = 50_000
CONNECTIONS: Final = 16
STRETCH_S: Final = 5.0


def main(requests: int = REQUESTS, warm_up: int = WARM_UP) -> None:
    """Measure, print the table and write the figures."""
    require_tools()
    pin_client()
    state = prepared()
    home = state.home("memory", "canary")
    headers = key_headers(home)
    rows = state.rows()
    mixed = [*single_bodies(rows), *batch_bodies(rows)]
    bodies = state.body_file("mixed", mixed)
    arguments = ("serve", "--port", "{port}")
    environment = {"MLOPS_AUTH": "keys", "MLOPS_LOG_SEGMENT_SECONDS": "10"}
    seen: list[tuple[int, float]] = []
    with running("mlops_assets.cli", *arguments, folder=home.root, ready="/readyz", environment=environment) as server:
        done = 0
        while done < warm_up + requests:
            load = measure(server, PATH, bodies, CONNECTIONS, STRETCH_S, headers)
            if load.wrong:
                raise CannotMeasure(f"{load.wrong} of {load.requests} requests were not answered")
            done += load.requests
            seen.append((done, server.worker_rss_mb()))
    warm = next((at, mb) for at, mb in seen if at >= warm_up)
    later = [mb for at, mb in seen if at > warm[0]] or [warm[1]]
    figures: dict[str, float | int | None] = {
        "requests": done - warm[0],
        "rss_warm_mb": warm[1],
        "rss_end_mb": later[-1],
        "rss_most_mb": max(later),
        "rss_growth_pct": 100 * (later[-1] / warm[1] - 1),
        "rss_most_growth_pct": 100 * (max(later) / warm[1] - 1),
    }
    table(
        f"{figures['requests']:,} requests after {warm[0]:,} to warm up",
        ["", "MB", "growth %"],
        [
            ["after the warm-up", figures["rss_warm_mb"], None],
            ["at the end", figures["rss_end_mb"], figures["rss_growth_pct"]],
            ["at the most", figures["rss_most_mb"], figures["rss_most_growth_pct"]],
        ],
    )
    save(NAME, figures)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
