"""The service's application in this process, with its runtime, driven by plain calls."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import msgspec

from mlops_assets.core.records import LabelRecord, PredictionRecord, Record
from mlops_assets.serving.app import ServingApp
from mlops_assets.serving.errors import Headers
from mlops_assets.serving.http_protocol import Caller, GoTheUsualWay
from mlops_assets.serving.runtime import ServingRuntime
from mlops_assets.serving.settings import ServingSettings
from mlops_assets.stores.home import Home
from mlops_assets.stores.prediction_log import PredictionLog
from mlops_assets_tests.waiting import wait_until

T = TypeVar("T")


async def _inner(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"inner " + scope["path"].encode()})


class Told:
    """A caller that keeps what it is told."""

    def __init__(self) -> None:
        self.replies: list[httpx.Response] = []

    def reply(self, status: int, body: bytes, headers: Headers) -> None:
        self.replies.append(
            httpx.Response(status, headers=[*headers, (b"content-type", b"application/json")], content=body)
        )


class Nobody:
    """Takes no request, so that all go uvicorn's way."""

    def takes(self, target: bytes) -> bool:
        return False

    def take(
        self, caller: Caller, target: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> GoTheUsualWay | None:
        return GoTheUsualWay({})

    def end_turn(self) -> None:
        return


class AppUnderTest:
    """Starts a runtime on a home and answers requests through the application, without a socket.

    As in the service, what can be answered at once is, unless `at_once` is false; the rest goes through ASGI.
    """

    def __init__(self, home: Home, carried: Path | None = None, at_once: bool = True, **settings: Any):
        self.at_once = at_once
        self.home = home
        options = {"poll_seconds": 0.02, "retry_seconds": 0.1, **settings}
        self.runtime = ServingRuntime(ServingSettings(home, **options), carried or home.root / "nothing carried")
        self._runner = asyncio.Runner()
        self._known: Mapping[str, object] = {}
        self.app = ServingApp(_inner, self.runtime)
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self._with_what_is_known), base_url="http://service"
        )

    def __enter__(self) -> Self:
        self._runner.__enter__()
        self._runner.run(self.app.start())
        return self

    def __exit__(self, *exception: Any) -> None:
        self._runner.run(self._client.aclose())
        self._runner.run(self.app.stop())
        self._runner.__exit__(*exception)

    def request(self, method: str, path: str, content: bytes | None = None, **headers: str) -> httpx.Response:
        return self._runner.run(self._request(method, path, content, headers))

    async def _request(self, method: str, path: str, content: bytes | None, headers: dict[str, str]) -> httpx.Response:
        told, way = Told(), self.app.at_once
        is_whole = content is None or isinstance(content, bytes)
        if self.at_once and is_whole and method == "POST" and way.takes(path.encode()):
            sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            otherwise = way.take(told, path.encode(), sent, content or b"")
            if otherwise is None:
                await asyncio.sleep(0)
                return told.replies[0]
            self._known = otherwise.known
        return await self._client.request(method, path, content=content, headers=headers)

    async def _with_what_is_known(self, scope: Any, receive: Any, send: Any) -> None:
        """As the protocol does, tell the application what was found out at once."""
        scope |= self._known
        self._known = {}
        await self.app(scope, receive, send)

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        """Do something on the service's event loop."""
        return self._runner.run(doing)

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def post(self, path: str, body: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return self.request("POST", path, content, **{"content-type": "application/json"})

    def predict(self, features: dict[str, Any], model: str = "delay", **extra: Any) -> httpx.Response:
        return self.post(f"/v1/models/{model}/predict", {"features": features, **extra})

    def shadowed(self) -> None:
        """Let everything be scored in shadow that waits for it."""

        async def settle() -> None:
            while self.runtime.shadows.rows:
                await asyncio.sleep(0.001)

        self._runner.run(settle())

    def records(self) -> list[Record]:
        return list(PredictionLog(self.home.prediction_log).records())

    def predictions(self) -> list[PredictionRecord]:
        return [record for record in self.records() if isinstance(record, PredictionRecord)]

    def labels(self) -> list[LabelRecord]:
        return [record for record in self.records() if isinstance(record, LabelRecord)]

    def wait_for(self, what: Callable[[], bool]) -> None:
        wait_until(what, timeout_s=20)
