"""How an entry becomes a line of the ledger, is read back, and chained to the line before. `stores/ledger.py` keeps lines."""

import hashlib
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from mlops_assets.core.ledger import Entry, Fact


class LedgerDamaged(RuntimeError):
    """A line cannot be read back as what was written; `seq` is its number."""

    def __init__(self, seq: int, why: str):
        super().__init__(
            f"line {seq} of the ledger {why}: see `mlops-assets audit verify`, and restore it from a backup"
        )
        self.seq = seq


class Line(msgspec.Struct, frozen=True):
    """An entry in its place: lines are numbered from 1 over all models, without holes."""

    seq: int
    entry: Entry
    hash: str


class Row(msgspec.Struct, frozen=True):
    """A line as the table `entries` holds it."""

    seq: int
    model: str
    subject: str
    kind: str
    key: str | None
    actor: str
    at: datetime
    now: datetime | None
    body: str
    previous_hash: str
    hash: str

    @classmethod
    def of(cls, seq: int, entry: Entry, previous_hash: str) -> "Row":
        """Chain an entry to the line before. Raises ValueError for one that would not read back."""
        body = _body(entry)
        now = None if entry.now is None else entry.now.astimezone(UTC)
        kind = str(entry.fact.__struct_config__.tag)
        row = cls(
            seq,
            entry.model,
            entry.subject,
            kind,
            entry.key,
            entry.actor,
            entry.at.astimezone(UTC),
            now,
            body,
            previous_hash,
            "",
        )
        return msgspec.structs.replace(row, hash=row.digest())

    @classmethod
    def read(cls, found: sa.Row[Any]) -> "Row":
        return cls(**found._mapping)

    def digest(self) -> str:
        """SHA-256 over the line's content and the hash of the line before, as hexadecimal digits."""
        content = (
            self.seq,
            self.model,
            self.subject,
            self.kind,
            self.key,
            self.actor,
            self.at.isoformat(timespec="microseconds"),
            None if self.now is None else self.now.isoformat(timespec="microseconds"),
            self.body,
            self.previous_hash,
        )
        return hashlib.sha256(msgspec.json.encode(content)).hexdigest()

    def entry(self) -> Entry:
        """What was recorded. Raises `LedgerDamaged`."""
        try:
            fact = _FACTS.decode(self.body)
        except msgspec.DecodeError as error:
            raise LedgerDamaged(self.seq, f"holds no fact that this version knows ({error})") from error
        return Entry(self.model, self.subject, fact, self.actor, self.at, self.now, self.key)

    def line(self) -> Line:
        return Line(self.seq, self.entry(), self.hash)


_FACTS: msgspec.json.Decoder[Fact] = msgspec.json.Decoder(Fact)


def _body(entry: Entry) -> str:
    where = f"{entry.model!r}, {type(entry.fact).__name__} about {entry.subject!r}"
    if entry.at.tzinfo is None or (entry.now is not None and entry.now.tzinfo is None):
        raise ValueError(f"{where}: 'at' and 'now' must name a time zone")
    if not entry.model or not entry.subject or not entry.actor:
        raise ValueError(f"{where}: model, subject and actor must not be empty")
    if any("\0" in text for text in (entry.model, entry.subject, entry.actor, entry.key or "")):
        raise ValueError(f"{where}: a NUL character cannot be written")
    body = msgspec.json.encode(entry.fact, order="deterministic")
    try:
        _FACTS.decode(body)
    except msgspec.DecodeError as error:
        raise ValueError(f"{where}: the fact would not read back ({error})") from error
    return body.decode()
