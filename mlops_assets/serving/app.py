"""The outermost ASGI application of a worker: our routes, their limits and errors; BentoML answers the rest of what it has.

Unknown paths end here, because BentoML's metrics keep a label for each path they see.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import msgspec
import uuid_utils

from mlops_assets.core.records import Record
from mlops_assets.serving import v2
from mlops_assets.serving.asking import DRAWN, FAILURE, Turn, in_service, loaded, score
from mlops_assets.serving.at_once import DEBUG_HEADER, TAKEN_IN, AtOnce
from mlops_assets.serving.describe import LiveModelsAnswer, describe
from mlops_assets.serving.door import BODY, KEY_ID, CallerLeft, Door, headers_of
from mlops_assets.serving.errors import Refusal
from mlops_assets.serving.feedback import label_records
from mlops_assets.serving.json_logs import about
from mlops_assets.serving.metrics import RequestMetrics, count_labels
from mlops_assets.serving.openapi import DOCS_FILES, DOCS_PAGE, openapi_document, request_schema
from mlops_assets.serving.predict import count_predictions, failure_record, not_logged, records_and_answer
from mlops_assets.serving.runtime import ServingRuntime
from mlops_assets.serving.shedding import DEADLINE_HEADER, SHED
from mlops_assets.serving.state import LiveModel, Snapshot
from mlops_assets.serving.tallies import flush_tallies
from mlops_assets.serving.tracing import Traces, open_traces
from mlops_assets.stores.api_keys import Permission
from mlops_assets.stores.prediction_log import LogError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("bentoml.mlops_assets.app")

_PROBES = frozenset({"/livez", "/healthz", "/readyz"})
_BENTOML_PATHS = frozenset({"/metrics", "/schema.json", *DOCS_FILES})
_JSON = b"application/json"
_NO_HEADERS: tuple[tuple[bytes, bytes], ...] = ()
_HTML = b"text/html; charset=utf-8"
# What a key must be allowed to do, by route; any key opens the others.
_PERMISSIONS: dict[str, Permission] = {
    "predict": "predict",
    "infer": "predict",
    "feedback": "feedback",
    "openapi": "admin",
    "docs": "admin",
}
_OPEN_ROUTES = frozenset({"v2-live", "v2-ready"})
_PREDICTING = frozenset({"predict", "infer"})
_POSTED = frozenset({"predict", "infer", "feedback", "explain"})
_OCTETS = b"application/octet-stream"


class ServingApp:
    """Routes a request to a model, a document, or to the application inside.

    Parameters
    ----------
    inner
        BentoML's application: probes, metrics, static files, lifespan.
    """

    def __init__(self, inner: ASGIApp, runtime: ServingRuntime):
        self._inner = inner
        self._runtime = runtime
        self._requests = RequestMetrics()
        self._traces: Traces | None = None
        self._door = Door(runtime.settings)
        self._documents: tuple[Snapshot, bytes] | None = None
        self.at_once = AtOnce(runtime, self._door, self._requests)

    async def start(self) -> None:
        """Open the door, then begin to work. Raises when keys, releases or the log cannot be worked with."""
        self._traces = self.at_once.traces = open_traces(self._runtime.settings.trace_share)
        await self._door.start()
        await self._runtime.start()

    async def stop(self) -> None:
        await self._runtime.stop()
        await self._door.stop()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith("/v1/models/") and path.endswith("/predict"):
                await self._answer(path[11:-8], "predict", self._predict, scope, receive, send)
            else:
                await self._other(path, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._inner(scope, receive, send)

    async def _other(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        state = self._runtime.state
        if path == "/readyz" and not state.snapshot.is_ready:
            body = Refusal(503, "not_ready", f"no model could be loaded: {dict(state.snapshot.errors)}").body
            await _send(send, 503, body, _JSON, ((b"retry-after", b"1"),))
        elif path == "/v2" or path.startswith("/v2/"):
            await self._v2(path, scope, receive, send)
        elif path in _PROBES:
            await self._inner(scope, receive, send)
        elif path in _BENTOML_PATHS:
            await self._answer_inside(scope, receive, send)
        elif path == "/v1/models":
            await self._answer("", "models", self._models, scope, receive, send)
        elif path in ("/openapi.json", "/docs.json"):
            await self._answer("", "openapi", self._openapi, scope, receive, send)
        elif path == "/":
            await self._answer("", "docs", self._docs, scope, receive, send)
        elif path.startswith("/v1/models/") and path.endswith("/feedback"):
            await self._answer(path[11:-9], "feedback", self._feedback, scope, receive, send)
        elif path.startswith("/v1/models/") and path.endswith("/explain"):
            await self._answer(path[11:-8], "explain", self._explain, scope, receive, send)
        elif path.startswith("/v1/models/") and path.endswith("/schema"):
            await self._answer(path[11:-7], "schema", self._schema, scope, receive, send)
        else:
            await self._answer("", "unknown", self._unknown, scope, receive, send)

    async def _v2(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """The Open Inference Protocol; what its parts mean is told in `v2.py`."""
        target = v2.target(path)
        if target is not None:
            scope["mlops.target"] = target
            handle = self._infer if target.what == "infer" else self._v2_model
            route = "infer" if target.what == "infer" else "v2-model"
            await self._answer(target.model, route, handle, scope, receive, send)
        elif path == "/v2":
            await self._answer("", "v2-server", self._v2_server, scope, receive, send)
        elif path in ("/v2/health/live", "/v2/health/ready"):
            await self._answer("", f"v2-{path[11:]}", self._v2_health, scope, receive, send)
        else:
            await self._answer("", "unknown", self._unknown, scope, receive, send)

    async def _answer(
        self,
        model: str,
        route: str,
        handle: Callable[[str, Scope, Receive], Awaitable[bytes]],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Run a handler, count and time it, and send its body or the JSON of what went wrong."""
        started = scope["mlops.started"] = time.perf_counter()
        posted, shedder = route in _POSTED, self._runtime.shedder
        failure: Refusal | None = None
        taken_in = False
        try:
            if route not in _OPEN_ROUTES:
                self._door.admit(scope, _PERMISSIONS.get(route))
            _require_method(scope, "POST" if posted else "GET")
            if posted:
                if TAKEN_IN not in scope:
                    self._take_in(model, route, scope)
                taken_in = True
                shedder.in_flight += 1
            body = await handle(model, scope, receive)
        except CallerLeft:
            return
        except Refusal as refusal:
            failure = refusal
        except Exception:
            # The edge: whatever failed, the caller gets JSON and the connection stays usable.
            scope["mlops.failed"] = str(uuid_utils.uuid7())
            logger.exception("%s %s failed", scope["method"], scope["path"], extra=self._about(model, scope))
            failure = Refusal(500, "internal_error", "the request failed inside the service; its log says why")
        finally:
            if taken_in:
                shedder.in_flight -= 1
        status, content_type, headers = 200, _HTML if route == "docs" else _JSON, _NO_HEADERS
        if failure is not None:
            status, body, content_type, headers = failure.status, failure.body, _JSON, failure.headers
            if scope["path"].startswith("/v2"):
                body = v2.error_body(failure)
            if taken_in:
                await self._log_failure(model, route, scope, failure)
        elif "mlops.json_size" in scope:
            content_type, headers = _OCTETS, ((v2.JSON_SIZE_HEADER, b"%d" % scope["mlops.json_size"]),)
        known = model if model in self._runtime.state.snapshot.models else ""
        seconds = time.perf_counter() - started
        self._requests.observe(known, route, status, seconds)
        turn: Turn | None = scope.get("mlops.turn")
        if self._traces is not None:
            self._trace(scope, known, route, status, seconds)
        if turn is None:
            await _send(send, status, body, content_type, headers)
            return
        turn.ended(status, seconds)
        if failure is None and shedder.learns:
            shedder.answered(model, turn.scoring_s)
        if failure is None and headers_of(scope).get(DEBUG_HEADER) == b"1":
            headers = (*headers, (b"x-mlops-release", turn.header))
        await _send(send, status, body, content_type, headers)
        if turn.shadow is not None and failure is None:
            self._runtime.shadows.offer(turn.shadow)

    def _take_in(self, model: str, route: str, scope: Scope) -> None:
        """Raise the refusal of a request that would wait too long. It is not read, counted for the model, and not logged."""
        # By its own name only where there is such a model: callers must not make labels.
        live = self._runtime.state.snapshot.models.get(model)
        deadline = headers_of(scope).get(DEADLINE_HEADER)
        refusal = self._runtime.shedder.refusal("" if live is None else model, deadline)
        if refusal is not None:
            if live is not None and route in _PREDICTING:
                live.counter.observe(refusal.status, 0.0)
            raise refusal

    def _trace(self, scope: Scope, model: str, route: str, status: int, seconds: float) -> None:
        """Make the span of a request that is sampled; it is sent from another thread."""
        assert self._traces is not None
        parent = self._traces.sampled(scope["headers"])
        if parent is not None:
            method, turn = scope["method"], scope.get("mlops.turn")
            self._traces.record(parent, method, model, route, status, seconds, turn)

    async def _answer_inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        """BentoML answers those who may ask."""
        try:
            self._door.admit(scope, "admin")
        except Refusal as refusal:
            self._requests.observe("", "inside", refusal.status, 0.0)
            await _send(send, refusal.status, refusal.body, _JSON, refusal.headers)
        else:
            flush_tallies()
            await self._inner(scope, receive, send)

    async def _predict(self, model: str, scope: Scope, receive: Receive) -> bytes:
        live = in_service(self._runtime.state.snapshot, model)
        turn = scope["mlops.turn"] = Turn(live, "mlops.pinned" in scope, scope.get(FAILURE), scope.get(DRAWN))
        body = await self._door.body(scope, receive)
        runtime = self._runtime
        scored = await score(turn, body, runtime.settings, runtime.means)
        records, answer = records_and_answer(scored, scope["mlops.started"])
        await self._append(live, records)
        count_predictions(turn, records)
        return answer

    async def _feedback(self, model: str, scope: Scope, receive: Receive) -> bytes:
        live = loaded(self._runtime.state.snapshot, model)
        body = await self._door.body(scope, receive)
        records = label_records(live.manifest, body, self._runtime.settings.max_rows)
        await self._append(live, records)
        count_labels(model, len(records))
        return b'{"accepted":%d}' % len(records)

    async def _explain(self, model: str, scope: Scope, receive: Receive) -> bytes:
        live = in_service(self._runtime.state.snapshot, model)
        body = await self._door.body(scope, receive)
        return await self._runtime.explainer.explain(live, body, lambda wanted: self._door.admit(scope, wanted))

    async def _models(self, _model: str, _scope: Scope, _receive: Receive) -> bytes:
        snapshot = self._runtime.state.snapshot
        models = [describe(live) for _, live in sorted(snapshot.models.items())]
        return msgspec.json.encode(LiveModelsAnswer(self._runtime.worker, models, dict(snapshot.errors)))

    async def _schema(self, model: str, _scope: Scope, _receive: Receive) -> bytes:
        return msgspec.json.encode(request_schema(loaded(self._runtime.state.snapshot, model).manifest))

    async def _openapi(self, _model: str, _scope: Scope, _receive: Receive) -> bytes:
        snapshot = self._runtime.state.snapshot
        if self._documents is None or self._documents[0] is not snapshot:
            manifests = [live.manifest for _, live in sorted(snapshot.models.items())]
            document = openapi_document(manifests, keys=self._runtime.settings.auth == "keys")
            self._documents = (snapshot, msgspec.json.encode(document))
        return self._documents[1]

    async def _docs(self, _model: str, _scope: Scope, _receive: Receive) -> bytes:
        return DOCS_PAGE

    async def _infer(self, model: str, scope: Scope, receive: Receive) -> bytes:
        body = await self._door.body(scope, receive, v2.MEDIA_TYPES)
        live = self._of_version(model, scope)
        if scope["mlops.target"].version is not None:
            scope["mlops.pinned"] = True
        size = v2.json_size(scope["headers"])
        inference = v2.read_inference(live.manifest, body, size, self._runtime.settings.max_rows)
        scope[BODY] = inference.predict
        answer = await self._predict(model, scope, receive)
        answer, json_size = v2.answer_inference(live.manifest, inference, answer)
        if json_size is not None:
            scope["mlops.json_size"] = json_size
        return answer

    async def _v2_model(self, model: str, scope: Scope, _receive: Receive) -> bytes:
        live = self._of_version(model, scope)
        if scope["mlops.target"].what == "ready":
            return msgspec.json.encode({"name": model, "ready": True})
        return msgspec.json.encode(v2.model_metadata(live.manifest))

    async def _v2_server(self, _model: str, _scope: Scope, _receive: Receive) -> bytes:
        return v2.server_metadata()

    async def _v2_health(self, _model: str, scope: Scope, _receive: Receive) -> bytes:
        if scope["path"].endswith("/live"):
            return b'{"live":true}'
        if not self._runtime.state.snapshot.is_ready:
            raise Refusal(503, "not_ready", "no model could be loaded", headers=((b"retry-after", b"1"),))
        return b'{"ready":true}'

    def _of_version(self, model: str, scope: Scope) -> LiveModel:
        """The model that a path of the protocol names, in the version that is in service. Raises `Refusal`."""
        version = scope["mlops.target"].version
        live = in_service(self._runtime.state.snapshot, model)
        if version is not None and version != str(live.manifest.version):
            message = f"version {version[:20]!r} of {model} is not in service: version {live.manifest.version} is"
            raise Refusal(404, "unknown_version", message)
        return live

    async def _unknown(self, _model: str, scope: Scope, _receive: Receive) -> bytes:
        raise Refusal(404, "not_found", "there is no such path: GET /openapi.json lists those there are")

    async def _append(self, live: LiveModel, records: Sequence[Record]) -> None:
        try:
            await self._runtime.append(records)
        except LogError as error:
            raise not_logged(live, error) from error

    async def _log_failure(self, model: str, route: str, scope: Scope, refusal: Refusal) -> None:
        """Leave a record of a predict request that got no prediction, where the model is known."""
        turn: Turn | None = scope.get("mlops.turn")
        live = self._runtime.state.snapshot.models.get(model) if turn is None else turn.live
        if route not in _PREDICTING or live is None or refusal.status in (401, 403, 405, 410):
            return
        if refusal.code == SHED:
            return
        failed = scope.get("mlops.failed")
        record = failure_record(live, refusal.status, str(refusal), scope["mlops.started"], failed)
        try:
            await self._runtime.append([record])
        except LogError as error:
            logger.error("A failed request is not on record: %s", error, extra=about(live, record.id))

    def _about(self, model: str, scope: Scope) -> dict[str, Any]:
        """What a line about a failed request says beside its message."""
        turn: Turn | None = scope.get("mlops.turn")
        live = self._runtime.state.snapshot.models.get(model) if turn is None else turn.live
        return about(live, scope["mlops.failed"], scope.get(KEY_ID))

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start before BentoML says that it has started, stop before it does."""

        async def receive_in_step() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except Exception as error:
                    # uvicorn would go on without us after an exception; told in its own words, it exits.
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
            return message

        await self._inner(scope, receive_in_step, send)


def _require_method(scope: Scope, allowed: str) -> None:
    method = scope["method"]
    if method != allowed and not (method == "HEAD" and allowed == "GET"):
        allow = b"POST" if allowed == "POST" else b"GET, HEAD"
        raise Refusal(405, "wrong_method", f"use {allowed} here, not {method}", headers=((b"allow", allow),))


async def _send(
    send: Send, status: int, body: bytes, content_type: bytes, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    start = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
