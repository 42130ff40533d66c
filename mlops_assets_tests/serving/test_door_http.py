"""The service with its door closed, over real HTTPS: keys, a certificate, slow callers, a client of the Open Inference Protocol."""

import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.http as triton
import trustme

from mlops_assets.operations.client import PredictionClient, ServiceError, http_client
from mlops_assets.operations.smoke import smoke_test
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE, ServiceFailed, running_service
from mlops_assets.serving.launch import require_servable
from mlops_assets.serving.settings import ServingSettings
from mlops_assets.stores.api_keys import ApiKeyStore
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import release, small_model
from mlops_assets_tests.waiting import wait_until


@dataclass(frozen=True)
class Closed:
    """A running service that asks for keys, a key that may predict, and the trust that its callers need."""

    home: Home
    url: str
    key: str
    trust: ssl.SSLContext


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    folder = tmp_path_factory.mktemp("closed")
    home = Home(folder / "home")
    release(home, small_model())
    _, key = ApiKeyStore(home.root).create("test", ("predict",), "user:test", datetime.now(UTC))
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(private))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    settings = {
        "MLOPS_AUTH": "keys",
        "MLOPS_TLS_CERTIFICATE": str(certificate),
        "MLOPS_TLS_KEY": str(private),
        "MLOPS_BODY_SECONDS": "0.5",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        with running_service(home, workers=2) as url:
            yield Closed(home, url, key, trust)


def test_the_service_answers_https_to_who_shows_a_key(closed: Closed):
    assert closed.url.startswith("https://")
    row = {"features": small_model().request_rows(1)[0]}
    with httpx.Client(base_url=closed.url, verify=closed.trust, trust_env=False) as client:
        assert client.post("/v1/models/delay/predict", json=row).status_code == 401
        assert client.get("/readyz").status_code == 200
        client.headers["x-api-key"] = closed.key
        assert client.post("/v1/models/delay/predict", json=row).status_code == 200
        assert client.get("/metrics").status_code == 403


def test_a_revoked_key_is_refused_by_every_worker_without_a_restart(closed: Closed):
    store = ApiKeyStore(closed.home.root)
    key, secret = store.create("short-lived", ("predict",), "user:test", datetime.now(UTC))

    def statuses() -> set[int]:
        headers = {"authorization": f"Bearer {secret}", "connection": "close"}
        with httpx.Client(base_url=closed.url, verify=closed.trust, trust_env=False, headers=headers) as client:
            return {client.get("/v1/models").status_code for _ in range(10)}

    wait_until(lambda: statuses() == {200})
    store.revoke(key.id, "user:test", datetime.now(UTC))
    wait_until(lambda: statuses() == {401})


def test_the_platform_asks_its_own_service_with_its_own_key(closed: Closed):
    stores = Stores(closed.home)
    plan = stores.releases.current("delay")
    assert plan is not None

    smoke = smoke_test(stores, plan)

    assert smoke.passed, smoke.why
    assert "golden rows" in smoke.why
    with PredictionClient(closed.url, home=closed.home) as client:
        assert client.models()[0]["model"] == "delay"
    with http_client(closed.url, closed.home, 10) as client:
        assert "mlops_requests_total" in client.get("/metrics").text


def test_a_key_in_the_environment_is_shown_instead(closed: Closed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLOPS_API_KEY", "mlops_wrong")
    with (
        PredictionClient(closed.url, home=closed.home) as client,
        pytest.raises(ServiceError, match="answered 401"),
    ):
        client.models()


def test_the_platforms_key_goes_to_no_other_address(closed: Closed):
    with http_client("https://127.0.0.1:1", closed.home, 1) as client:
        assert "authorization" not in client.headers


def test_a_body_that_does_not_arrive_is_answered_408_and_the_connection_closed(closed: Closed):
    at = urlsplit(closed.url)
    head = (
        f"POST /v1/models/delay/predict HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {closed.key}\r\n"
        "content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    with (
        socket.create_connection((at.hostname, at.port), timeout=30) as plain,
        closed.trust.wrap_socket(plain, server_hostname=at.hostname) as connection,
    ):
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"too_slow"' in answer


def test_workers_see_the_address_that_they_inherit(closed: Closed):
    """What the refusal of an open door rests on when a service is started by `bentoml serve`."""
    pids = {state.pid for state in Stores(closed.home).workers.live(datetime.now(UTC), HEARTBEAT_MAX_AGE)}
    assert len(pids) == 2
    for pid in pids:
        listening = [one for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        assert [(one.laddr.ip, one.laddr.port) for one in listening] == [("127.0.0.1", urlsplit(closed.url).port)]


class TestATritonClient:
    @pytest.fixture
    def client(self, closed: Closed) -> Iterator[triton.InferenceServerClient]:
        with triton.InferenceServerClient(
            urlsplit(closed.url).netloc, ssl=True, ssl_context_factory=lambda: closed.trust
        ) as client:
            yield client

    @pytest.fixture
    def headers(self, closed: Closed) -> dict[str, str]:
        return {"authorization": f"Bearer {closed.key}"}

    @pytest.fixture
    def expected(self, closed: Closed) -> list[float]:
        rows = [{"features": {"distance": 100.0, "carrier": "AA"}}, {"features": {"distance": 2000.0, "carrier": "B6"}}]
        with PredictionClient(closed.url, home=closed.home) as client:
            return [one["probability"] for one in client.predict_many("delay", rows)]

    def test_it_is_told_what_there_is(self, client: triton.InferenceServerClient, headers: dict[str, str]):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("delay", headers=headers)
        assert client.is_model_ready("delay", "1", headers=headers)
        assert not client.is_model_ready("delay", "2", headers=headers)
        assert not client.is_model_ready("nothing", headers=headers)
        assert client.get_server_metadata(headers=headers)["name"] == "mlops-assets"
        told = client.get_model_metadata("delay", headers=headers)
        assert [one["name"] for one in told["inputs"]] == list(small_model().features)

    @pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
    def test_it_gets_the_answers_of_our_own_route(
        self, client: triton.InferenceServerClient, headers: dict[str, str], expected: list[float], binary: bool
    ):
        distance = triton.InferInput("distance", [2], "FP64")
        distance.set_data_from_numpy(np.array([100.0, 2000.0]), binary_data=binary)
        carrier = triton.InferInput("carrier", [2], "BYTES")
        carrier.set_data_from_numpy(np.array(["AA", "B6"], dtype=np.object_), binary_data=binary)
        wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("probability", "imputed")]

        result = client.infer("delay", [distance, carrier], outputs=wanted, headers=headers, request_id="r-1")

        assert result.as_numpy("probability").tolist() == expected
        assert json.loads(result.as_numpy("imputed")[0]) == ["temp", "seats", "holiday", "air port"]
        assert result.get_response()["id"] == "r-1"

    def test_its_defaults_work_and_nan_is_missing(
        self, client: triton.InferenceServerClient, headers: dict[str, str], expected: list[float]
    ):
        inputs = []
        for name, values in (("distance", [100.0, 2000.0]), ("temp", [np.nan, np.nan])):
            inputs.append(triton.InferInput(name, [2, 1], "FP64"))
            inputs[-1].set_data_from_numpy(np.array(values).reshape(2, 1))
        inputs.append(triton.InferInput("carrier", [2], "BYTES"))
        inputs[-1].set_data_from_numpy(np.array(["AA", "B6"], dtype=np.object_))

        result = client.infer("delay", inputs, "1", headers=headers, parameters={"probe": True})

        assert result.as_numpy("probability").tolist() == expected
        assert result.as_numpy("role").tolist() == [b"champion", b"champion"]

    def test_it_understands_a_refusal(self, client: triton.InferenceServerClient, headers: dict[str, str]):
        one = triton.InferInput("temp", [1], "FP64")
        one.set_data_from_numpy(np.array([5.0]))
        with pytest.raises(triton.InferenceServerException, match=r"rows\[0\].features.distance") as refused:
            client.infer("delay", [one], headers=headers)
        assert refused.value.status() == "422"
        with pytest.raises(triton.InferenceServerException, match="send an API key"):
            client.infer("delay", [one])


def test_a_service_for_the_network_without_keys_does_not_start_and_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nothing is ever listened on: the address is refused before."""
    for name in ("MLOPS_AUTH", "MLOPS_TLS_CERTIFICATE", "MLOPS_TLS_KEY"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(ServiceFailed, match="refuses its settings"),
        running_service(Home(tmp_path), host="0.0.0.0", ready_timeout=120),
    ):
        pytest.fail("it must not start")


def test_a_certificate_without_its_key_does_not_start(tmp_path: Path):
    file = tmp_path / "certificate.pem"
    file.write_text("no certificate")
    environment = {"MLOPS_AUTH": "keys", "MLOPS_TLS_CERTIFICATE": str(file), "MLOPS_TLS_KEY": str(file)}
    with pytest.raises(ValueError, match="MLOPS_TLS_CERTIFICATE and MLOPS_TLS_KEY do not hold"):
        require_servable(ServingSettings.from_environment(environment), "127.0.0.1")
    del environment["MLOPS_TLS_KEY"]
    with pytest.raises(ValueError, match="needs both"):
        ServingSettings.from_environment(environment)
