"""Scoring a stream: messages of a NATS JetStream subject are put to the same application as HTTP requests, in this process.

A message is one row as `POST /v1/models/<model>/predict` takes it, and its answer the same JSON. It is acknowledged when its record
is in the log and its answer in the other stream: whatever dies on the way, it is delivered again and answered as it was logged.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.records import PredictionRecord
from mlops_assets.serving.app import ServingApp
from mlops_assets.serving.runtime import ServingRuntime
from mlops_assets.serving.settings import ServingSettings
from mlops_assets.serving.stream_messages import StreamRow, encoded_answer, is_answer, row_of
from mlops_assets.serving.stream_nats import PAUSE_S, StreamSettings, connected, consumer, fetched, require_no_circle
from mlops_assets.stores.bundles import BundleError, BundleStore
from mlops_assets.stores.log_search import SAME_REQUEST
from mlops_assets.stores.prediction_log import PredictionLog

logger = logging.getLogger("bentoml.mlops_assets.stream")

MAX_DELIVERIES = 5  # of a message that the model fails at, before it goes to the dead letters
_RETRY_DELAY_S = 2.0
_TEMPORARY = frozenset({404, 408, 410, 429, 503})  # of the service, not of the message: it waits
_HEADERS = [(b"content-type", b"application/json")]


@dataclass
class StreamCounts:
    """What became of the messages so far; `repeated` were answered as their record in the log says."""

    answered: int = 0
    repeated: int = 0
    dead: int = 0
    put_back: int = 0


@dataclass
class StreamScorer:
    """Scores until told to stop."""

    settings: StreamSettings
    serving: ServingSettings
    counts: StreamCounts = field(default_factory=StreamCounts)

    async def run(self, stopping: asyncio.Event) -> None:
        """Score until `stopping` is set; what is in work then is finished, or put back.

        Raises
        ------
        StreamRefused
            When NATS is out of reach, or no stream takes one of the subjects.
        """
        require_no_circle(self.settings)
        client = await connected(self.settings)
        try:
            stream = client.jetstream()
            ack_wait_s, subscription = await consumer(stream, self.settings)
            # Who may write to the subject is NATS' to say: behind it nobody is asked for a key.
            runtime = ServingRuntime(replace(self.serving, auth="off"), self.serving.home.root / "nothing carried")
            app = ServingApp(_nothing_inside, runtime)
            await app.start()
            try:
                work = _Work(self.settings, self.counts, client, stream, runtime, app, stopping, ack_wait_s)
                logger.info("Scoring %s for %s", self.settings.subject_in, self.settings.model)
                while not stopping.is_set():
                    if await work.has_model():
                        await work.take(await fetched(subscription, self.settings.batch))
            finally:
                await app.stop()
        finally:
            with contextlib.suppress(nats.errors.Error, OSError):
                await client.flush()
            await client.close()
            logger.info("Stopped: %s", self.counts)


@dataclass
class _Work:
    """What the messages in work need."""

    settings: StreamSettings
    counts: StreamCounts
    client: Client
    stream: JetStreamContext
    runtime: ServingRuntime
    app: ServingApp
    stopping: asyncio.Event
    ack_wait_s: float
    _manifests: dict[str, Manifest] = field(default_factory=dict)

    async def has_model(self) -> bool:
        """Whether somebody can answer; where nobody can, messages are left where they are for a while."""
        snapshot, model = self.runtime.state.snapshot, self.settings.model
        if model in snapshot.models and model not in snapshot.retired:
            return True
        why = "is retired" if model in snapshot.retired else snapshot.errors.get(model, "is not released")
        logger.warning("Messages wait: %s %s", model, why)
        await self._pause()
        return False

    async def take(self, messages: list[Msg]) -> None:
        """Answer messages, all of them at a time, and tell NATS meanwhile that they are in work."""
        if not messages:
            return
        alive = asyncio.create_task(self._keep_alive(messages))
        try:
            rows = [row_of(message) for message in messages]
            logged = await asyncio.to_thread(self._logged, messages, rows)
            await asyncio.gather(*map(self._answer, messages, rows, [logged] * len(rows)))
        finally:
            alive.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await alive

    async def _answer(self, message: Msg, row: StreamRow, logged: Mapping[str, PredictionRecord]) -> None:
        record = None if row.id is None else logged.get(row.id)
        while True:
            status, body = await self._ask(row) if record is None else (200, self._answer_of(record))
            if status == 200:
                sent = await self._publish(self.settings.subject_out, body, {"Nats-Msg-Id": f"answer/{row.id}"})
                self.counts.answered += sent
                self.counts.repeated += sent and record is not None
                return await (self._acknowledge(message) if sent else self._put_back(message, 0))
            if status in _TEMPORARY:
                logger.warning("A message waits: %s", body.decode())
                await self._pause()
                if self.stopping.is_set():
                    return await self._put_back(message, 0)
                continue
            if status >= 500 and message.metadata.num_delivered < MAX_DELIVERIES:
                logger.warning("A message is tried again later: %s", body.decode())
                return await self._put_back(message, _RETRY_DELAY_S)
            sent = await self._bury(message, body)
            self.counts.dead += sent
            return await (self._acknowledge(message) if sent else self._put_back(message, 0))

    async def _ask(self, row: StreamRow) -> tuple[int, bytes]:
        """Status and body that the service answers with."""
        status, parts = 500, []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": row.body}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message["body"])

        path = f"/v1/models/{self.settings.model}/predict"
        await self.app({"type": "http", "method": "POST", "path": path, "headers": _HEADERS}, receive, send)
        return status, b"".join(parts)

    def _logged(self, messages: list[Msg], rows: list[StreamRow]) -> dict[str, PredictionRecord]:
        """The answers on record to those of the messages that were delivered before, by their ids.

        Without it, a release that came since would answer once more, and the log would have two answers.
        """
        again = [
            (row.id, message.metadata.timestamp)
            for message, row in zip(messages, rows, strict=True)
            if row.id is not None and message.metadata.num_delivered > 1
        ]
        if not again:
            return {}
        wanted, since = {name for name, _ in again}, min(time for _, time in again) - SAME_REQUEST
        log = PredictionLog(self.runtime.settings.home.prediction_log)
        found: dict[str, PredictionRecord] = {}
        for segment in log.segments():
            if segment.last_served_at is None or segment.last_served_at < since:
                continue
            for record in log.segment(segment.path.name, self.settings.model, skipped=[]):
                if isinstance(record, PredictionRecord) and record.id in wanted and is_answer(record):
                    found.setdefault(record.id, record)
        return found

    def _answer_of(self, record: PredictionRecord) -> bytes:
        """The answer that a record is of, once more."""
        if record.bundle not in self._manifests:
            live = self.runtime.state.snapshot.models[record.model]
            try:
                bundle = BundleStore(self.runtime.settings.home.bundles).get(record.bundle)
                self._manifests[record.bundle] = bundle.manifest
            except BundleError:
                # Removed since. Classes are the declaration's; only a threshold could be another.
                logger.warning("%s is lost: its answers are told with the threshold of %s", record.bundle, live.bundle)
                self._manifests[record.bundle] = live.manifest
        return encoded_answer(record, self._manifests[record.bundle])

    async def _bury(self, message: Msg, error: bytes) -> bool:
        where = f"{message.metadata.stream}/{message.metadata.sequence.stream}"
        said: dict[str, dict[str, str]] = msgspec.json.decode(error)
        short = {part: {name: text[:500] for name, text in about.items()} for part, about in said.items()}
        headers = {"Mlops-Error": json.dumps(short), "Mlops-Message": where, "Nats-Msg-Id": f"dead/{where}"}
        room = self.client.max_payload - sum(len(name) + len(value) + 4 for name, value in headers.items()) - 64
        if len(message.data) > room:
            headers["Mlops-Truncated"] = str(len(message.data))
            room -= 64
        return await self._publish(self.settings.subject_dead, message.data[:room], headers)

    async def _publish(self, subject: str, body: bytes, headers: dict[str, str]) -> bool:
        """Hand a message to its stream; tried until the stream has it, or until told to stop: then the answer is False."""
        while True:
            try:
                await self.stream.publish(subject, body, headers=headers)
            except (nats.errors.Error, OSError) as error:
                logger.warning("%s does not take messages (%r); trying again", subject, error)
                if self.stopping.is_set():
                    return False
                await self._pause()
            else:
                return True

    async def _acknowledge(self, message: Msg) -> None:
        try:
            await message.ack()
        except (nats.errors.Error, OSError) as error:
            logger.warning("An acknowledgement was lost (%r): the message will come again", error)

    async def _put_back(self, message: Msg, delay_s: float) -> None:
        self.counts.put_back += 1
        with contextlib.suppress(nats.errors.Error, OSError):  # it comes again anyway, later
            await message.nak(delay_s)

    async def _keep_alive(self, messages: Collection[Msg]) -> None:
        while True:
            await asyncio.sleep(self.ack_wait_s / 3)
            for message in messages:
                if not message.is_acked:
                    with contextlib.suppress(nats.errors.Error, OSError):
                        await message.in_progress()

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), PAUSE_S)


async def _nothing_inside(_scope: Any, _receive: Any, _send: Any) -> None:
    raise AssertionError("only predictions are asked for")
