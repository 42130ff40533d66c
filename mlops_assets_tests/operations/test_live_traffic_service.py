"""A service killed under load while its log is being taken in: what it acknowledged is there once."""

import os
import signal
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from mlops_assets.operations.live_traffic import compact, ingest, read_window, stale_windows
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import running_service
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import release, small_model
from mlops_assets_tests.waiting import wait_until

KILLS = 3
BETWEEN_KILLS = 60
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).isoformat()  # a window that is not over is not compacted


class Load(threading.Thread):
    """Asks and posts labels over and over; remembers what was acknowledged."""

    def __init__(self, url: str, rows: list[dict[str, object]]) -> None:
        super().__init__(daemon=True)
        self.answered: list[str] = []
        self.labelled: list[str] = []
        self.stop = threading.Event()
        self._url, self._rows = url, rows

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            with httpx.Client(base_url=self._url, timeout=10, trust_env=False) as client:
                try:
                    self._ask(client, f"r{number}", number)
                except httpx.TransportError:
                    continue

    def _ask(self, client: httpx.Client, name: str, number: int) -> None:
        body = {
            "id": name,
            "entity": f"E{number}",
            "event_time": YESTERDAY,
            "features": self._rows[number % len(self._rows)],
        }
        if client.post("/v1/models/delay/predict", json=body).status_code == 200:
            self.answered.append(name)
        if client.post("/v1/models/delay/feedback", json={"id": name, "value": number % 2}).status_code == 200:
            self.labelled.append(name)


@pytest.mark.slow
def test_a_killed_service_loses_and_doubles_nothing(tmp_path: Path) -> None:
    home, model = Home(tmp_path), small_model()
    release(home, model)
    stores, spec = Stores(home), model.spec

    def take() -> None:
        ingest(stores, [spec])
        for window in stale_windows(spec, stores):
            compact(spec, stores, window)

    with running_service(home, environment={"MLOPS_LOG_SEGMENT_SECONDS": "1"}) as url:
        load = Load(url, model.request_rows(50))
        load.start()
        for kill in range(KILLS):
            enough = (kill + 1) * BETWEEN_KILLS
            while len(load.answered) < enough:
                take()
            worker = max(stores.workers.live(datetime.now(UTC), timedelta(seconds=5)), key=lambda one: one.started_at)
            os.kill(worker.pid, signal.SIGKILL)
            acknowledged = len(load.answered)
            wait_until(lambda seen=acknowledged: len(load.answered) > seen, timeout_s=60)
        load.stop.set()
        load.join()
    take()

    tables = [read_window(spec, stores, window) for window in stores.lake.tables("delay", "live_traffic")]
    ids = [name for table in tables for name in table["id"] if name.startswith("r")]
    assert len(ids) == len(set(ids)), "doubled"
    assert set(load.answered) <= set(ids), "lost"
    labelled = {name for table in tables for name in table.loc[table["label"].notna(), "id"]}
    assert {name for name in load.labelled if name in set(load.answered)} <= labelled, "lost labels"
    assert stale_windows(spec, stores) == {}
