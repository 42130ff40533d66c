"""What we use of BentoML that is not documented, and what must not come into a serving process."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlops_assets.operations.bento import SOURCE
from mlops_assets.serving.app import ServingApp
from mlops_assets.serving.service import PredictorService, predictor_service
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import release, small_model


@pytest.fixture
def asgi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServingApp:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    release(Home(tmp_path / "home"), small_model())
    service = predictor_service(tmp_path)
    assert isinstance(service, PredictorService)
    return service.to_asgi()


def test_our_application_is_outside_and_bentomls_answers_inside(asgi: ServingApp):
    """`bentoml.service(service_class=…)` makes our class, whose `to_asgi` is what the worker serves."""

    async def talk() -> tuple[list[str], dict[str, httpx.Response]]:
        events: list[str] = []
        inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def send(message: Any) -> None:
            events.append(message["type"])
            sent.set()

        sent = asyncio.Event()
        lifespan = asyncio.create_task(
            asgi({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, inbox.get, send)
        )
        await inbox.put({"type": "lifespan.startup"})
        await sent.wait()
        sent.clear()
        paths = (
            "/readyz",
            "/livez",
            "/healthz",
            "/metrics",
            "/static_content/swagger-initializer.js",
            "/v1/models",
            "/x",
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://service") as client:
            answers = {path: await client.get(path) for path in paths}
        await inbox.put({"type": "lifespan.shutdown"})
        await sent.wait()
        await lifespan
        return events, answers

    events, answers = asyncio.run(talk())

    assert events == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert [answers[path].status_code for path in answers] == [200, 200, 200, 200, 200, 200, 404]
    assert answers["/readyz"].headers["content-type"].startswith("text/plain")
    assert answers["/metrics"].headers["content-type"].startswith("text/plain")
    assert "docs.json" in answers["/static_content/swagger-initializer.js"].text
    assert answers["/v1/models"].json()["models"][0]["model"] == "delay"


def test_the_compiled_path_imports_neither_pandas_nor_scikit_learn_nor_mlflow(tmp_path: Path):
    """Also what BentoML's own server imports is seen, since a worker imports both."""
    release(Home(tmp_path / "home"), small_model())
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(SOURCE)!r})
import service, uvicorn, _bentoml_impl.server, _bentoml_impl.worker.service
app = service.predictor.to_asgi()
asyncio.run(app._runtime.start())
assert list(app._runtime.state.snapshot.models) == ["delay"], app._runtime.state.snapshot
found = sorted({{"pandas", "sklearn", "mlflow", "pandera", "dagster"}} & set(sys.modules))
print("found", found)
"""
    environment = {"MLOPS_HOME": str(tmp_path / "home"), "BENTOML_HOME": str(tmp_path / "b"), "PATH": "/usr/bin:/bin"}
    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert "found []" in outcome.stdout, outcome.stdout + outcome.stderr
