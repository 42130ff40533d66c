"""A client of the prediction service, as thin as HTTP allows, and what it takes to be let in: a key, and trust in a certificate."""

import os
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from mlops_assets.stores.api_keys import ApiKeyStore
from mlops_assets.stores.home import Home

KEY_VARIABLE = "MLOPS_API_KEY"
CERTIFICATE_VARIABLE = "MLOPS_TLS_CERTIFICATE"


class ServiceError(RuntimeError):
    """The service refused or failed; the message holds its answer."""


class PredictionClient:
    """Asks a running service for predictions and hands it labels, over one kept connection.

    Parameters
    ----------
    home
        Whose service it is; that of the environment when None.
    """

    def __init__(self, url: str, timeout_s: float = 30.0, home: Home | None = None) -> None:
        self._http = http_client(url, home or Home.from_environment(), timeout_s)
        self.latencies_ms: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def predict(self, model: str, row: dict[str, Any]) -> dict[str, Any]:
        """The answer for one row: `{"features": …}` with, where wanted, `id`, `entity` and `event_time`."""
        return self._post(f"/v1/models/{model}/predict", row)

    def predict_many(self, model: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers for many rows, in their order."""
        answers: list[dict[str, Any]] = self._post(f"/v1/models/{model}/predict", {"rows": list(rows)})["predictions"]
        return answers

    def feedback(self, model: str, labels: Sequence[dict[str, Any]]) -> int:
        """Hand in labels; returns how many were accepted."""
        return int(self._post(f"/v1/models/{model}/feedback", {"labels": list(labels)})["accepted"])

    def models(self) -> list[dict[str, Any]]:
        """What is live."""
        models: list[dict[str, Any]] = self._json(self._http.get("/v1/models"))["models"]
        return models

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        answer = self._http.post(path, json=body)
        self.latencies_ms.append((time.perf_counter() - started) * 1000)
        return self._json(answer)

    @staticmethod
    def _json(answer: httpx.Response) -> dict[str, Any]:
        if answer.is_error:
            raise ServiceError(
                f"{answer.request.method} {answer.request.url.path} was answered {answer.status_code}: {answer.text[:500]}"
            )
        body: dict[str, Any] = answer.json()
        return body


def http_client(url: str, home: Home, timeout_s: float) -> httpx.Client:
    """An HTTP client that the service on this address lets in.

    It shows the key in `$MLOPS_API_KEY`; where that is not set and the service is the home's own, the key that the platform has
    there. The home's own service is known by its certificate in `$MLOPS_TLS_CERTIFICATE`, whatever name it was reached by.
    """
    key, certificate = os.environ.get(KEY_VARIABLE), None
    if url == home.service_url():
        key = key or ApiKeyStore(home.root).internal()
        certificate = os.environ.get(CERTIFICATE_VARIABLE)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    verify = pinned(Path(certificate)) if certificate and url.startswith("https:") else True
    return httpx.Client(base_url=url, timeout=timeout_s, trust_env=False, headers=headers, verify=verify)


def pinned(certificate: Path) -> ssl.SSLContext:
    """Trust in nobody but the holder of this certificate, the first in a PEM file, so that its names need not be compared."""
    first = certificate.read_text(encoding="ascii").partition(_END)[0] + _END
    context = ssl.create_default_context(cadata=first)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


_END = "-----END CERTIFICATE-----"
