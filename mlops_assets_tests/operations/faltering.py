"""A service on 127.0.0.1 that answers golden rows as they are to be answered, after some faults."""

import json
import os
import socket
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from mlops_assets.core.scoring.scorer import GoldenRows
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.workers import LoadedRelease, WorkerState

Fault = int | Literal["drops", "hangs", "is behind", "lies"]
ANY_RELEASE = 10**6


class Faltering:
    """One worker that has every release of the model "delay".

    Parameters
    ----------
    faults
        What happens to the first requests: a status, or that the connection is dropped, that no answer comes, or another one. What
        comes `at_last` happens to all that follow; they are answered well where that is None.
    """

    def __init__(self, stores: Stores, *faults: Fault, at_last: Fault | None = None) -> None:
        self.asked, self.at_last = 0, at_last
        self._stores, self._faults, self._over = stores, list(faults), threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                service.asked += 1
                fault = service._faults.pop(0) if service._faults else service.at_last
                if fault == "drops":
                    self.close_connection = True
                elif fault == "hangs":
                    service._over.wait()
                elif isinstance(fault, int):
                    self._reply(fault, {"error": {"code": "a_test", "message": "not now"}})
                else:
                    self._reply(200, service._answer(fault))

            def _reply(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> "Faltering":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self._stores.home.service_address.write_text(f"http://127.0.0.1:{self._server.server_port}")
        now = datetime.now(UTC)
        loaded = LoadedRelease(ANY_RELEASE, 1, "sha256:any", now)
        state = WorkerState(
            "w", os.getpid(), socket.gethostname(), now, now + timedelta(hours=1), {"delay": loaded}, {}
        )
        self._stores.workers.report(state)
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._stores.home.service_address.unlink()
        self._stores.workers.remove("w")

    def _answer(self, fault: Fault | None) -> dict[str, Any]:
        plan = self._stores.releases.current("delay")
        assert plan is not None
        golden = GoldenRows.from_json(self._stores.bundles.get(plan.champion.bundle).files["golden.json"])
        off = 0.25 if fault == "lies" else 0.0
        answers = [{"probability": output[1] + off} for output in golden.outputs]
        return {"release": plan.release - (fault == "is behind"), "predictions": answers}
