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
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.records import PredictionRecord
from mlops_assets.serving.app import ServingApp
from mlops_assets.serving.runtime import ServingRuntime
from mlops_assets.serving.settings import ServingSettings
from mlops_assets.stores.bundles import BundleError, BundleStore
from mlops_assets.stores.prediction_log import SAME_REQUEST, PredictionLog

logger = logging.getLogger("bentoml.mlops_assets.stream")

MAX_DELIVERIES = 5  # of a message that the model fails at, before it goes to the dead letters
PAUSE_S = 1.0
CONNECT_S = 10.0
_FETCH_S = 1.0
_RETRY_DELAY_S = 2.0
_TEMPORARY = frozenset({404, 408, 410, 429, 503})  # of the service, not of the message: it waits
_HEADERS = [(b"content-type", b"application/json")]
_DEGRADED = frozenset({"standby", "fallback"})


class StreamRefused(ValueError):
    """The subjects, or what NATS knows of them, do not allow for scoring; the message says what to do."""


@dataclass(frozen=True)
class StreamSettings:
    """From which subject to which.

    Attributes
    ----------
    subject_dead
        Where messages go that can never be answered, as they came, with the error as JSON in the header `Mlops-Error`.
    durable
        Name of the consumer, which outlives its processes; several processes of one name share the messages.
    batch
        Messages in work at a time: as many are held in memory, and wait at NATS for an acknowledgement.
    ack_wait_s
        How long a message may go without a sign of life before it is delivered again. For a new consumer.
    credentials
        A NATS credentials file.
    """

    model: str
    url: str
    subject_in: str
    subject_out: str
    subject_dead: str
    durable: str
    batch: int = 256
    ack_wait_s: float = 30.0
    credentials: Path | None = None


@dataclass
class StreamCounts:
    """What became of the messages so far; `repeated` were answered as their record in the log says."""

    answered: int = 0
    repeated: int = 0
    dead: int = 0
    put_back: int = 0


@dataclass(frozen=True)
class _Row:
    """A message as it is put to the application: with an id and an event time that are the same at every delivery."""

    id: str | None
    body: bytes


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
        _require_no_circle(self.settings)
        client = await _connected(self.settings)
        try:
            stream = client.jetstream()
            ack_wait_s, subscription = await _consumer(stream, self.settings)
            # Who may write to the subject is NATS' to say: behind it nobody is asked for a key.
            runtime = ServingRuntime(replace(self.serving, auth="off"), self.serving.home.root / "nothing carried")
            app = ServingApp(_nothing_inside, runtime)
            await app.start()
            try:
                work = _Work(self.settings, self.counts, client, stream, runtime, app, stopping, ack_wait_s)
                logger.info("Scoring %s for %s", self.settings.subject_in, self.settings.model)
                while not stopping.is_set():
                    if await work.has_model():
                        await work.take(await _fetched(subscription, self.settings.batch))
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
            rows = [_row_of(message) for message in messages]
            logged = await asyncio.to_thread(self._logged, messages, rows)
            await asyncio.gather(*map(self._answer, messages, rows, [logged] * len(rows)))
        finally:
            alive.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await alive

    async def _answer(self, message: Msg, row: _Row, logged: Mapping[str, PredictionRecord]) -> None:
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

    async def _ask(self, row: _Row) -> tuple[int, bytes]:
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

    def _logged(self, messages: list[Msg], rows: list[_Row]) -> dict[str, PredictionRecord]:
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
                if isinstance(record, PredictionRecord) and record.id in wanted and _is_answer(record):
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
        return _encoded_answer(record, self._manifests[record.bundle])

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


async def _connected(settings: StreamSettings) -> Client:
    async def said(error: Exception) -> None:
        logger.warning("NATS: %r", error)

    credentials = None if settings.credentials is None else str(settings.credentials)
    try:
        connecting = nats.connect(
            settings.url,
            name=f"mlops-assets stream {settings.model}",
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            user_credentials=credentials,
            error_cb=said,
        )
        return await asyncio.wait_for(connecting, CONNECT_S)
    except (nats.errors.Error, OSError) as error:  # TimeoutError is an OSError
        raise StreamRefused(f"no NATS server answers at {settings.url}: {error!r}") from error


async def _consumer(
    stream: JetStreamContext, settings: StreamSettings
) -> tuple[float, JetStreamContext.PullSubscription]:
    """How long the consumer waits for an acknowledgement, and the subscription to it; the consumer is made if need be."""
    config = ConsumerConfig(
        ack_policy=AckPolicy.EXPLICIT, ack_wait=settings.ack_wait_s, max_ack_pending=4 * settings.batch
    )
    for subject in (settings.subject_in, settings.subject_out, settings.subject_dead):
        try:
            name = await stream.find_stream_name_by_subject(subject)
        except nats.js.errors.NotFoundError:
            raise StreamRefused(f"no JetStream stream takes {subject!r}: make one with this subject") from None
        except (nats.errors.Error, OSError) as error:
            raise StreamRefused(f"{settings.url}: JetStream does not answer ({error!r}): is it on?") from error
        if subject == settings.subject_in:
            source = name
    subscription = await stream.pull_subscribe(settings.subject_in, settings.durable, source, config)
    there = (await stream.consumer_info(source, settings.durable)).config
    if there.ack_policy != AckPolicy.EXPLICIT or there.filter_subject != settings.subject_in:
        raise StreamRefused(
            f"the consumer {settings.durable!r} of {source!r} is of another kind or for {there.filter_subject!r}: "
            "choose another name for it"
        )
    return float(there.ack_wait or settings.ack_wait_s), subscription


async def _fetched(subscription: JetStreamContext.PullSubscription, most: int) -> list[Msg]:
    try:
        return await subscription.fetch(most, timeout=_FETCH_S)
    except TimeoutError:
        return []
    except (nats.errors.Error, OSError) as error:
        logger.warning("NATS gives no messages (%r); trying again", error)
        await asyncio.sleep(PAUSE_S)
        return []


def _row_of(message: Msg) -> _Row:
    try:
        fields = msgspec.json.decode(message.data, type=dict[str, msgspec.Raw])
        sent = fields.get("id", _NULL)
        name = _id_of(message) if sent == _NULL else msgspec.json.decode(sent)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Row(None, message.data)
    if not isinstance(name, str):
        return _Row(None, message.data)
    fields["id"] = msgspec.Raw(msgspec.json.encode(name))
    if fields.get("event_time", _NULL) == _NULL:
        fields["event_time"] = msgspec.Raw(msgspec.json.encode(message.metadata.timestamp.astimezone(UTC)))
    return _Row(name, msgspec.json.encode(fields))


_NULL = msgspec.Raw(b"null")


def _id_of(message: Msg) -> str:
    """The id of a message that brings none, the same at every delivery: a UUIDv7 of when it came into its stream."""
    about = message.metadata
    milliseconds = (about.timestamp - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e3
    what = f"{about.stream}/{about.sequence.stream}/{about.timestamp.isoformat()}"
    random = int.from_bytes(blake2b(what.encode(), digest_size=10).digest())
    number = int(milliseconds) << 80 | random
    return str(UUID(int=number & ~(0xF << 76) & ~(0x3 << 62) | 7 << 76 | 2 << 62))


def _is_answer(record: PredictionRecord) -> bool:
    return record.status == 200 and record.role != "shadow"


def _encoded_answer(record: PredictionRecord, manifest: Manifest) -> bytes:
    output, classes = record.output, manifest.classes
    answer: dict[str, Any] = {
        "prediction_id": record.id,
        "model": record.model,
        "model_version": record.version,
        "release": record.release,
        "role": record.role,
    }
    if manifest.task == "binary":
        answer |= {"prediction": classes[output[1] >= manifest.threshold], "probability": output[1]}
    elif manifest.task == "multiclass":
        best = max(range(len(output)), key=output.__getitem__)
        answer |= {"prediction": classes[best], "probabilities": dict(zip(map(str, classes), output, strict=True))}
    else:
        answer["prediction"] = output[0]
    answer |= {"imputed": record.imputed, "out_of_domain": record.out_of_domain}
    if record.role in _DEGRADED:
        answer["degraded"] = True
    return msgspec.json.encode(answer)


def _require_no_circle(settings: StreamSettings) -> None:
    for subject in (settings.subject_out, settings.subject_dead):
        if _matches(settings.subject_in, subject):
            raise StreamRefused(
                f"what goes to {subject!r} would come back by {settings.subject_in!r}: choose another subject"
            )


def _matches(pattern: str, subject: str) -> bool:
    wanted, given = pattern.split("."), subject.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(given) > position
        if position >= len(given) or token not in ("*", given[position]):
            return False
    return len(wanted) == len(given)
