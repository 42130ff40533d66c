"""The ledger: incidents, decisions, approvals, releases and refusals, as chained entries in a SQL database.

Entries are only ever added. What follows from them (`core/ledger_fold.py`) is written beside them in one transaction, for readers
in SQL, and so are the notices that people are to get; sending those is the business of `operations/notify.py`.
"""

import threading
from collections.abc import Collection, Sequence

import msgspec
import sqlalchemy as sa

from mlops_assets.core.ledger import Entry, Record
from mlops_assets.core.ledger_fold import fold
from mlops_assets.core.notices import notices_for
from mlops_assets.stores.database import Database
from mlops_assets.stores.ledger_audit import Verification, verify
from mlops_assets.stores.ledger_chain import Line, Row
from mlops_assets.stores.ledger_tables import ENTRIES, HEAD
from mlops_assets.stores.ledger_views import changed_rows, event_row, identity
from mlops_assets.stores.outbox import put


class Head(msgspec.Struct, frozen=True):
    """The newest line: its number, 0 where nothing is written yet, and its hash."""

    seq: int
    hash: str


class Ledger:
    """All entries of one deployment. Any number of processes and threads may read and record.

    Every method raises `LedgerUnavailable` when the database is locked for long, unreachable, full or not writable, and
    `LedgerDamaged` when a line cannot be read back.
    """

    def __init__(self, url: str, patience_s: float = 30.0):
        self.database = Database(url, patience_s)
        self._lock = threading.Lock()
        self._known: dict[str, tuple[int, Record]] = {}

    def record(self, *entries: Entry) -> bool:
        """Add entries, all or none; False, and nothing is added, when the key of one of them is there already.

        Raises
        ------
        ValueError
            When two of them have one key, or one would not read back as it is (a moment without time zone, a fact of wrong types).
        """
        keys = [one.key for one in entries if one.key is not None]
        if len(set(keys)) < len(keys):
            raise ValueError(f"two entries with one key: {', '.join(sorted(keys))}")
        for one in entries:
            Row.of(0, one, "")
        with self.database.writing() as connection:
            head = connection.execute(sa.select(HEAD.c.seq, HEAD.c.hash).with_for_update()).one()
            if keys and connection.execute(sa.select(ENTRIES.c.seq).where(ENTRIES.c.key.in_(keys))).first() is not None:
                return False
            for model in {one.model for one in entries}:
                self._known[model] = self._up_to_date(connection, model)
            rows: list[Row] = []
            for one in entries:
                before = rows[-1] if rows else head
                rows.append(Row.of(before.seq + 1, one, before.hash))
            if rows:
                connection.execute(sa.insert(ENTRIES), [msgspec.structs.asdict(row) for row in rows])
                connection.execute(sa.update(HEAD).values(seq=rows[-1].seq, hash=rows[-1].hash))
                _write_what_follows(connection, rows, {one.model: self._known[one.model][1] for one in entries})
        return True

    def of(self, model: str) -> Record:
        """What follows from a model's entries; only those that are new since the last call are read."""
        with self._lock, self.database.reading() as connection:
            self._known[model] = self._up_to_date(connection, model)
            return self._known[model][1]

    def entries(
        self, model: str | None = None, since_seq: int = 0, kinds: Collection[str] | None = None
    ) -> tuple[Line, ...]:
        """Lines after `since_seq`, oldest first; of one model, and of these kinds (tags of facts) where they are given."""
        with self.database.reading() as connection:
            return tuple(row.line() for row in _rows(connection, model, since_seq, kinds))

    def models(self) -> tuple[str, ...]:
        """The models that something is written about, by name."""
        with self.database.reading() as connection:
            return tuple(sorted(connection.execute(sa.select(ENTRIES.c.model).distinct()).scalars()))

    def head(self) -> Head:
        """The newest line. Kept elsewhere, it proves later that nothing up to it was changed (`verify`)."""
        with self.database.reading() as connection:
            seq, digest = connection.execute(sa.select(HEAD.c.seq, HEAD.c.hash)).one()
            return Head(seq, digest)

    def verify(self, anchor: Head | None = None) -> Verification:
        """Walk the chain, and compare what follows from it with the tables for SQL.

        A changed, removed, inserted or moved line is found, also at the end, and a row of those tables that says something else.
        Who can write to the database could write all of it anew: that is found with an `anchor`, a head that was kept elsewhere.
        """
        with self.database.reading() as connection:
            return verify(connection, None if anchor is None else (anchor.seq, anchor.hash))

    def _up_to_date(self, connection: sa.Connection, model: str) -> tuple[int, Record]:
        seq, record = self._known.get(model, (0, Record(model)))
        rows = _rows(connection, model, seq, None)
        return (rows[-1].seq, fold(model, [row.entry() for row in rows], record)) if rows else (seq, record)


def _rows(connection: sa.Connection, model: str | None, since_seq: int, kinds: Collection[str] | None) -> Sequence[Row]:
    query = sa.select(ENTRIES).where(ENTRIES.c.seq > since_seq).order_by(ENTRIES.c.seq)
    if model is not None:
        query = query.where(ENTRIES.c.model == model)
    if kinds is not None:
        query = query.where(ENTRIES.c.kind.in_(kinds))
    return [Row.read(found) for found in connection.execute(query)]


def _write_what_follows(connection: sa.Connection, rows: Sequence[Row], befores: dict[str, Record]) -> None:
    entries = [row.entry() for row in rows]
    newest = max(one.at for one in entries)
    for model, before in befores.items():
        after = fold(model, [one for one in entries if one.model == model], before)
        for table, cells in changed_rows(before, after):
            columns = zip(table.primary_key.columns, identity(table, cells), strict=True)
            connection.execute(sa.delete(table).where(*(column == value for column, value in columns)))
            connection.execute(sa.insert(table), [dict(cells)])
        for notice in notices_for(before, after):
            put(connection, notice, newest)
    for row, one in zip(rows, entries, strict=True):
        if (event := event_row(row.seq, one)) is not None:
            connection.execute(sa.insert(event[0]), [dict(event[1])])
