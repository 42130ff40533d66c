"""The way to NATS: connection, consumer, and which subjects go together. What messages mean: `stream_messages.py`."""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

logger = logging.getLogger("bentoml.mlops_assets.stream")

PAUSE_S = 1.0
CONNECT_S = 10.0
_FETCH_S = 1.0


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


def require_no_circle(settings: StreamSettings) -> None:
    """Raises `StreamRefused` where an answer would come back as a message."""
    for subject in (settings.subject_out, settings.subject_dead):
        if _matches(settings.subject_in, subject):
            raise StreamRefused(
                f"what goes to {subject!r} would come back by {settings.subject_in!r}: choose another subject"
            )


async def connected(settings: StreamSettings) -> Client:
    """A client that connects again whenever the connection is lost. `StreamRefused` where nobody answers at all."""

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


async def consumer(
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


async def fetched(subscription: JetStreamContext.PullSubscription, most: int) -> list[Msg]:
    """The next messages, at most so many; none where there are none for a second, or NATS gives none."""
    try:
        return await subscription.fetch(most, timeout=_FETCH_S)
    except TimeoutError:
        return []
    except (nats.errors.Error, OSError) as error:
        logger.warning("NATS gives no messages (%r); trying again", error)
        await asyncio.sleep(PAUSE_S)
        return []


def _matches(pattern: str, subject: str) -> bool:
    wanted, given = pattern.split("."), subject.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(given) > position
        if position >= len(given) or token not in ("*", given[position]):
            return False
    return len(wanted) == len(given)
