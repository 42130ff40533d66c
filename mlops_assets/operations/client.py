"""A client of the prediction service, as thin as HTTP allows."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx


class ServiceError(RuntimeError):
    """The service refused or failed; the message holds its answer."""


class PredictionClient:
    """Asks a running service for predictions and hands it labels, over one kept connection."""

    def __init__(self, url: str, timeout_s: float = 30.0) -> None:
        self._http = httpx.Client(base_url=url, timeout=timeout_s, trust_env=False)
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
