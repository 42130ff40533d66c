"""The callers of a drill: real flights asked for and labelled over HTTP, with a note of everything that was acknowledged."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import httpx
import msgspec
import pandas as pd
import uuid_utils

from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.client import PredictionClient, ServiceError
from mlops_assets.operations.smoke import outputs_of
from mlops_assets.operations.traffic import ask

HOURLY = timedelta(hours=1)
PACE_S = 0.02  # from one request of a steady caller to its next: what is asked in vain counts for as much as what is answered

Outcome = Literal["answered", "refused", "failed", "unanswered"]


class Asked(msgspec.Struct, frozen=True):
    """One row that a caller has asked for: by which id, for whom, what became of it, and since when that is known."""

    id: str
    entity: str
    at: datetime
    outcome: Outcome


class Acknowledged(msgspec.Struct, frozen=True):
    """One answer as the caller got it, and when by the wall clock."""

    id: str
    model: str
    version: int
    release: int
    role: str
    output: tuple[float, ...]
    at: datetime


@dataclass
class Tally:
    """What all callers were told. `refused` counts 503 and 429, `failed` other errors, `unanswered` broken connections."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    labels: int = 0
    refused: int = 0
    failed: int = 0
    unanswered: int = 0
    last_refusal: datetime | None = None
    last_answer: datetime | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Caller(PredictionClient):
    """A client that keeps a tally, and gives each row an id by which the log can be asked what became of it.

    Requests that are not answered raise, as they do for everybody.
    """

    def __init__(self, url: str, tally: Tally) -> None:
        super().__init__(url, timeout_s=15)
        self._tally = tally

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        tally, rows = self._tally, [] if _is_feedback(path) else body.get("rows", [body])
        for row in rows:
            row.setdefault("id", str(uuid_utils.uuid7()))
        begun = time.perf_counter()
        try:
            answer = self._http.post(path, json=body)
        except httpx.TransportError:
            with tally.lock:
                tally.unanswered += 1
                tally.asked += _asked(rows, datetime.now(UTC), "unanswered")
            raise
        self.latencies_ms.append((time.perf_counter() - begun) * 1000)
        with tally.lock:
            now = datetime.now(UTC)
            tally.asked += _asked(rows, now, _count(tally, path, answer, now))
        return self._json(answer)


def _count(tally: Tally, path: str, answer: httpx.Response, now: datetime) -> Outcome:
    if answer.status_code in (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.TOO_MANY_REQUESTS):
        tally.refused += 1
        tally.last_refusal = now
        return "refused"
    if answer.is_error:
        tally.failed += 1
        return "failed"
    if _is_feedback(path):
        tally.labels += answer.json()["accepted"]
    else:
        tally.acknowledged += _acknowledged(answer.json(), now)
        tally.last_answer = now
    return "answered"


def _is_feedback(path: str) -> bool:
    return path.endswith("/feedback")


def _asked(rows: Sequence[dict[str, Any]], at: datetime, outcome: Outcome) -> list[Asked]:
    return [Asked(row["id"], row.get("entity") or row["id"], at, outcome) for row in rows]


def _acknowledged(body: dict[str, Any], at: datetime) -> list[Acknowledged]:
    return [_of_row({**body, **one}, at) for one in body.get("predictions", [body])]


def _of_row(answer: dict[str, Any], at: datetime) -> Acknowledged:
    """What was said of one row: by whom it was answered is said there where several did, else of all."""
    return Acknowledged(
        id=answer["prediction_id"],
        model=answer["model"],
        version=answer["model_version"],
        release=answer["release"],
        role=answer["role"],
        output=tuple(outputs_of(answer)),
        at=at,
    )


def bodies_of(spec: ModelSpec, rows: pd.DataFrame, ids: Sequence[str]) -> list[dict[str, Any]]:
    """The same flights as requests with ids of the caller's own, as one sends again what may not have arrived."""
    features = rows[list(spec.feature_names)].astype(object).where(rows[list(spec.feature_names)].notna(), None)
    return [
        {"id": one, "entity": entity, "event_time": moment.isoformat(), "features": values}
        for one, entity, moment, values in zip(
            ids, rows[spec.entity_key], rows[spec.event_time], features.to_dict("records"), strict=True
        )
    ]


@contextmanager
def steady_load(url: str, tally: Tally, spec: ModelSpec, rows: pd.DataFrame, callers: int = 2) -> Iterator[None]:
    """Callers that ask for one flight after the other, at an even pace, as long as the block lasts; they do not mind errors."""
    stopping = threading.Event()

    def call(first: int) -> None:
        position = first
        with Caller(url, tally) as client:
            while not stopping.is_set():
                position = (position + callers) % len(rows)
                due = time.monotonic() + PACE_S
                with suppress(httpx.TransportError, ServiceError):
                    ask(spec, client, rows.iloc[position : position + 1].reset_index(drop=True), HOURLY, singles=1)
                stopping.wait(max(due - time.monotonic(), 0.0))

    threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join(30)
