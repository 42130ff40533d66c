"""Folders that were logged to a run: fetched, known not to be there, or out of reach."""

import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlops_assets.stores.registry import Registry

LOGGED = "bundles/abc"


def test_what_a_run_has_not_is_told_from_what_is_out_of_reach(tmp_path: Path):
    registry = Registry.local(tmp_path / "mlflow")
    run = registry.client.create_run(registry.experiment("delay")).info.run_id
    folder, fetched = tmp_path / "abc", tmp_path / "fetched"
    folder.mkdir()
    fetched.mkdir()
    (folder / "manifest.json").write_text("{}")
    registry.log_folder(run, folder, LOGGED)
    assert (registry.fetch_folder(run, LOGGED, fetched) / "manifest.json").read_text() == "{}"
    with pytest.raises(FileNotFoundError, match="has no folder bundles/other"):
        registry.fetch_folder(run, "bundles/other", fetched)

    (tmp_path / "unwritable").write_text("a file")
    with pytest.raises(OSError, match="cannot be fetched") as unwritten:
        registry.fetch_folder(run, LOGGED, tmp_path / "unwritable")
    artifacts = tmp_path / "mlflow" / "artifacts"
    shutil.rmtree(artifacts)
    artifacts.mkdir()
    with pytest.raises(OSError, match=f"no file of run {run} is to be found") as unmounted:
        registry.fetch_folder(run, LOGGED, fetched)
    assert not any(isinstance(one.value, FileNotFoundError) for one in (unwritten, unmounted))
    with pytest.raises(FileNotFoundError, match="MLflow has no run nobody"):
        registry.fetch_folder("nobody", LOGGED, fetched)


def test_a_server_that_is_down_is_given_up_soon(monkeypatch: pytest.MonkeyPatch):
    """MLflow tried seven times more, for four minutes, in a sensor that may take one."""
    asked: list[str] = []

    class Down(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with HTTPServer(("127.0.0.1", 0), Down) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(MlflowException, match="too many 503"):
                Registry(f"http://127.0.0.1:{server.server_port}", "").versions("delay")
        finally:
            server.shutdown()
            thread.join()
    assert len(asked) == 3


def test_a_tracking_server_that_does_not_answer_is_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(*_: object) -> None:
        raise MlflowException("connection refused")

    monkeypatch.setattr(MlflowClient, "get_run", refused)
    with pytest.raises(OSError, match="it cannot be told whether run r has bundles/abc: connection refused") as unknown:
        Registry.local(tmp_path).fetch_folder("r", LOGGED, tmp_path)
    assert not isinstance(unknown.value, FileNotFoundError)
