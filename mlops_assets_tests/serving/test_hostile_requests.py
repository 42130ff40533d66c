"""Thousands of requests that nobody sane sends: by the OpenAPI document and against it, and bytes that are no HTTP at all."""

import random
import re
import select
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mlops_assets.operations.supervise import running_service
from mlops_assets.stores.api_keys import ApiKeyStore
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import release, small_model

POSTED_CASES, OTHER_CASES = 260, 15
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
PAYLOADS = 2000
PATIENCE_S = 0.03  # an answer takes a millisecond, and half of the payloads never get one
DOCUMENTED = {"", "200", "400", "401", "403", "404", "405", "408", "409", "413", "415", "422", "503"}
MAX_GROWTH_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Service:
    """A running service that asks for keys, and one that opens everything."""

    url: str
    key: str

    def client(self) -> httpx.Client:
        headers = {"x-api-key": self.key}
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, headers=headers)

    def worker(self) -> str:
        with self.client() as client:
            name: str = client.get("/v1/models").json()["worker"]
        return name

    def series(self) -> Counter[str]:
        """What `/metrics` tells, without the values: how many lines of each metric."""
        with self.client() as client:
            lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
        return Counter(re.split(r"[{ ]", line)[0] for line in lines)

    def failures(self) -> list[str]:
        with self.client() as client:
            text = client.get("/metrics").text
        return [line for line in text.splitlines() if re.match(r'mlops_requests_total\{.*status="5', line)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = Home(tmp_path_factory.mktemp("hostile"))
    release(home, small_model())
    environment = {"MLOPS_AUTH": "keys", "MLOPS_MAX_BODY_BYTES": "100000", "MLOPS_BODY_SECONDS": "2"}
    with running_service(home, environment=environment) as url:
        key = ApiKeyStore(home.root).internal()
        assert key is not None
        yield Service(url, key)


@pytest.mark.slow
def test_every_answer_to_thousands_of_generated_requests_is_a_documented_one(service: Service):
    worker = service.worker()
    with service.client() as client:
        document = client.get("/openapi.json").json()
    session = requests.Session()
    session.headers["x-api-key"] = service.key
    statuses: Counter[int] = Counter()
    asked: Counter[str] = Counter()

    def run(operation: Any, mode: schemathesis.GenerationMode, cases: int) -> None:
        @settings(
            max_examples=cases,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            answer = case.call_and_validate(base_url=service.url, session=session, checks=CHECKS, timeout=20)
            statuses[answer.status_code] += 1
            asked[f"{operation.method} {operation.path}"] += 1

        ask()

    schema = schemathesis.openapi.from_dict(document)
    for found in schema.get_all_operations():
        operation = found.ok()
        cases = POSTED_CASES if operation.method == "post" else OTHER_CASES
        run(operation, schemathesis.GenerationMode.POSITIVE, cases)
        if operation.method == "post":
            run(operation, schemathesis.GenerationMode.NEGATIVE, cases)

    model, version = "/v2/models/delay", "/v2/models/delay/versions/{version}"
    posted = [*(f"/v1/models/delay/{what}" for what in ("predict", "feedback", "explain")), f"{model}/infer"]
    for path in (*posted, f"{version}/infer"):
        assert asked[f"post {path}"] >= 2 * POSTED_CASES, asked
    assert {f"get {path}" for path in ("/v1/models", "/metrics", model, version, "/v2/health/ready")} <= set(asked)
    assert statuses.total() > 2600, statuses
    assert {200, 422} <= set(statuses)
    assert service.worker() == worker


@pytest.mark.slow
def test_random_bytes_crash_nothing_and_leave_neither_memory_nor_metrics_behind(service: Service):
    worker = service.worker()
    process = psutil.Process(int(worker.rpartition("-")[2]))
    bytes_of = _payloads(service)
    # The first third brings caches, buffers and the labels of every kind of answer to their size.
    statuses = Counter(_send(service.url, next(bytes_of)) for _ in range(PAYLOADS // 3))
    series, memory = service.series(), process.memory_info().rss
    statuses += Counter(_send(service.url, next(bytes_of)) for _ in range(2 * PAYLOADS // 3))

    assert service.worker() == worker, "the worker has crashed and was replaced"
    assert service.failures() == []
    assert {"200", "400", "401", "404", "405", "422"} <= set(statuses) <= DOCUMENTED, statuses
    assert process.memory_info().rss - memory < MAX_GROWTH_BYTES
    grown = service.series() - series
    # A route, status and method that came late is one more line; a label that callers choose would be hundreds.
    assert grown.total() < 60, grown
    assert not [name for name in grown if name.startswith("mlops_") and grown[name] > 40], grown
    assert process.num_fds() < 100


_BODIES = [
    (b"/v1/models/delay/predict", b'{"features":{"distance":1000}}'),
    (b"/v1/models/delay/feedback", b'{"id":"p-1","value":1}'),
    (b"/v1/models/delay/explain", b'{"features":{"distance":1000}}'),
    (b"/v1/models/delay/explain", b'{"prediction_id":"p-1"}'),
    (
        b"/v2/models/delay/infer",
        b'{"inputs":[{"name":"distance","datatype":"FP64","shape":[1,1],"data":[1000]}]}',
    ),
]


def _payloads(service: Service) -> Iterator[bytes]:
    """Whole requests, requests with a fault, and noise."""
    dice = random.Random(7)
    key = service.key.encode()
    every = [
        b"POST %s HTTP/1.1\r\nhost: x\r\nx-api-key: %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
        % (path, key, len(body), body)
        for path, body in _BODIES
    ]
    while True:
        whole = dice.choice(every)
        noise = dice.randbytes(dice.choice([1, 20, 300, 5000]))
        path = b"/" + bytes(dice.choice(b"abcXYZ019/%._-~!") for _ in range(dice.randrange(60)))
        folder = dice.choice([b"", b"/v1/models", b"/v2/models", b"/static_content", b"/v1/models/delay"])
        method = dice.choice([b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"BREW", b"get"])
        length = dice.choice([b"-1", b"abc", b"99999999999999999999", b"0", b"7", b"1e3", b"", b" 5", b"0x10"])
        chunk = dice.choice([b"zz", b"5", b"ffffffffffffffff", b"-1", b""])
        place = dice.randrange(len(whole))
        yield dice.choice(
            [
                noise,
                whole,
                whole[:place],
                whole[:place] + dice.randbytes(3) + whole[place:],
                bytes(byte ^ (dice.random() < 0.02) * dice.randrange(256) for byte in whole),
                b"%s %s%s HTTP/1.1\r\nhost: x\r\nx-api-key: %s\r\n\r\n" % (method, folder, path, key),
                b"%s /v1/models/delay/predict HTTP/1.1\r\nx-api-key: %s\r\ncontent-length: %s\r\n\r\n%s"
                % (method, key, length, noise),
                b"POST /v2/models/delay/infer HTTP/1.1\r\nx-api-key: %s\r\ninference-header-content-length: %s\r\n"
                b"content-length: %d\r\n\r\n%s" % (key, length, len(noise), noise),
                b"POST /v1/models/delay/predict HTTP/1.1\r\nx-api-key: %s\r\ntransfer-encoding: chunked\r\n\r\n%s\r\n%s\r\n"
                % (key, chunk, noise),
                b"POST /v1/models/delay/predict HTTP/1.1\r\nx-api-key: %s\r\ncontent-length: %d\r\n\r\n%s"
                % (key, len(noise), noise),
                b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: %s\r\n" % (n, b"x" * 50) for n in range(dice.randrange(300))),
                b"GET /v1/models HTTP/1.1\r\nauthorization: Bearer %s\r\n\r\n"
                % noise.replace(b"\n", b"").replace(b"\r", b""),
            ]
        )


def _send(url: str, payload: bytes) -> str:
    """Send bytes, give the service a moment, say that no more come, and read: the status that was answered, if any."""
    at, answer = urlsplit(url), b""
    with (
        socket.create_connection((at.hostname, at.port), timeout=20) as connection,
        suppress(ConnectionResetError, BrokenPipeError),
    ):
        connection.sendall(payload)
        # A server that hears at once that no more comes drops what it has read.
        select.select([connection], [], [], PATIENCE_S)
        connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            answer += part
    return answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") else ""
