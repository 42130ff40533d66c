"""A message of a stream as a row to be asked for, and an answer on record as a message. Sending them: `stream.py`."""

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec
from nats.aio.msg import Msg

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.records import PredictionRecord

_DEGRADED = frozenset({"standby", "fallback"})


@dataclass(frozen=True)
class StreamRow:
    """A message as it is put to the application: with an id and an event time that are the same at every delivery."""

    id: str | None
    body: bytes


def row_of(message: Msg) -> StreamRow:
    """The row that a message brings; what cannot be read is put to the application as it is, which says what is wrong with it."""
    try:
        fields = msgspec.json.decode(message.data, type=dict[str, msgspec.Raw])
        sent = fields.get("id", _NULL)
        name = _id_of(message) if sent == _NULL else msgspec.json.decode(sent)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return StreamRow(None, message.data)
    if not isinstance(name, str):
        return StreamRow(None, message.data)
    fields["id"] = msgspec.Raw(msgspec.json.encode(name))
    if fields.get("event_time", _NULL) == _NULL:
        fields["event_time"] = msgspec.Raw(msgspec.json.encode(message.metadata.timestamp.astimezone(UTC)))
    return StreamRow(name, msgspec.json.encode(fields))


def is_answer(record: PredictionRecord) -> bool:
    """Whether a record is of what a caller was answered."""
    return record.status == 200 and record.role != "shadow"


def encoded_answer(record: PredictionRecord, manifest: Manifest) -> bytes:
    """The JSON that the service has answered with, of one row.

    Parameters
    ----------
    manifest
        Of the bundle that answered.
    """
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


_NULL = msgspec.Raw(b"null")


def _id_of(message: Msg) -> str:
    """The id of a message that brings none, the same at every delivery: a UUIDv7 of when it came into its stream."""
    about = message.metadata
    milliseconds = (about.timestamp - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e3
    what = f"{about.stream}/{about.sequence.stream}/{about.timestamp.isoformat()}"
    random = int.from_bytes(blake2b(what.encode(), digest_size=10).digest())
    number = int(milliseconds) << 80 | random
    return str(UUID(int=number & ~(0xF << 76) & ~(0x3 << 62) | 7 << 76 | 2 << 62))
