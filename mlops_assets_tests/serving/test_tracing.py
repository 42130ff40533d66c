"""Spans as a receiver of the OpenTelemetry protocol gets them, and the service's own log as JSON."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlops_assets.serving.json_logs import about, log_as_json
from mlops_assets.serving.settings import ServingSettings
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest
from mlops_assets_tests.serving.trials import Failing, break_version

ROW = small_model().request_rows(1)[0]
PATH = "/v1/models/delay/predict"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Receiver(ThreadingHTTPServer):
    """Takes spans over HTTP, as a collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.spans: list[Any] = []


class Taking(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        assert self.path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    release(home, small_model())
    return home


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "*")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(app: AppUnderTest, **headers: str) -> Any:
    body = msgspec.json.encode({"features": ROW})
    return app.request("POST", PATH, body, **{"content-type": "application/json", **headers}).json()


def attributes(span: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        return [plain(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)

    return {attribute.key: plain(attribute.value) for attribute in span.attributes}


def test_a_span_tells_who_answered_and_names_the_prediction(home: Home, receiver: Receiver):
    with AppUnderTest(home, trace_share=1.0) as app:
        answer = ask(app)
        app.post(PATH, b"{")
    answered, refused = receiver.spans
    told = attributes(answered)
    assert answered.name == "POST predict"
    assert told["mlops.prediction_ids"] == [answer["prediction_id"]]
    assert (told["mlops.model"], told["mlops.version"], told["mlops.release"]) == ("delay", 1, 1)
    assert (told["http.response.status_code"], told["mlops.role"], told["mlops.rows"]) == (200, "champion", 1)
    assert answered.end_time_unix_nano - answered.start_time_unix_nano > 0
    assert attributes(refused)["http.response.status_code"] == 400


def test_a_parent_says_whether_there_is_a_span(home: Home, receiver: Receiver):
    with AppUnderTest(home, trace_share=1e-12) as app:
        ask(app)
        ask(app, traceparent=f"00-{TRACE}-{PARENT}-01")
        ask(app, traceparent="nonsense")
    with AppUnderTest(home, trace_share=1.0) as app:
        ask(app, traceparent=f"00-{TRACE}-{PARENT}-00")
    (span,) = receiver.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)


def test_no_span_is_made_where_none_is_asked_for(home: Home, receiver: Receiver):
    with AppUnderTest(home) as app:
        ask(app, traceparent=f"00-{TRACE}-{PARENT}-01")
    assert receiver.spans == []


@pytest.mark.parametrize(("name", "value"), [("MLOPS_TRACE_SHARE", "1.5"), ("MLOPS_LOG_FORMAT", "xml")])
def test_a_wrong_setting_is_refused_naming_the_variable(name: str, value: str):
    with pytest.raises(ValueError, match=name):
        ServingSettings.from_environment({name: value})


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the service's loggers write, as JSON."""
    written, logger = io.StringIO(), logging.getLogger("bentoml.mlops_assets")
    handler = logging.StreamHandler(written)
    logger.addHandler(handler)
    others = {
        one: one.formatter
        for name in [None, *logging.root.manager.loggerDict]
        for one in logging.getLogger(name).handlers
    }
    level = logger.level
    logger.setLevel(logging.INFO)
    log_as_json()
    yield written
    logger.setLevel(level)
    logger.removeHandler(handler)
    for one, formatter in others.items():
        one.setFormatter(formatter)


def told(lines: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


class TestJsonLogs:
    def test_a_release_that_goes_live_is_a_line_with_its_parts(self, home: Home, lines: io.StringIO):
        with AppUnderTest(home):
            pass
        (line,) = [line for line in told(lines) if "is live" in line["message"]]
        assert (line["model"], line["version"], line["release"], line["level"]) == ("delay", 1, 1, "INFO")
        assert line["logger"] == "bentoml.mlops_assets.loader"
        assert line["time"].endswith("+00:00")

    def test_a_fault_names_the_record_of_the_request_that_met_it(self, home: Home, lines: io.StringIO):
        with AppUnderTest(home) as app:
            break_version(app, "champion", Failing())
            assert app.predict(ROW).status_code == 500
            (record,) = app.predictions()
        (line,) = [line for line in told(lines) if line.get("prediction_id")]
        assert line["prediction_id"] == record.id
        assert (line["model"], line["version"], line["release"]) == ("delay", 1, 1)
        assert "RuntimeError: a fault" in line["traceback"]

    def test_a_refused_release_and_a_breaker_say_of_whom_they_speak(self, home: Home, lines: io.StringIO):
        def damage(files: dict[str, bytes]) -> None:
            files["golden.json"] = b"{}"

        with AppUnderTest(home) as app:
            release(home, small_model(version=2), damage=damage)
            app.wait_for(lambda: bool(app.runtime.state.snapshot.errors))
            live = app.runtime.state.snapshot.models["delay"]
            for _ in range(20):
                live.failed("error")
        refused, *_ = [line for line in told(lines) if "is refused" in line["message"]]
        assert (refused["model"], refused["release"]) == ("delay", 1)
        (breaker,) = [line for line in told(lines) if line.get("breaker")]
        assert (breaker["model"], breaker["version"], breaker["breaker"]) == ("delay", 1, "open")

    def test_what_is_not_known_is_left_out(self):
        assert about(None, key_id="k-1") == {"key_id": "k-1"}
