"""Is the ledger what was written? The walk along its chain, and the comparison with the tables for SQL."""

from typing import Any

import msgspec
import sqlalchemy as sa

from mlops_assets.core.ledger import Entry
from mlops_assets.core.ledger_fold import fold
from mlops_assets.stores.ledger_chain import LedgerDamaged, Row
from mlops_assets.stores.ledger_tables import DECISIONS, ENTRIES, HEAD, INCIDENTS
from mlops_assets.stores.ledger_views import VIEWS, decision_row, event_row, identity, incident_row


class Verification(msgspec.Struct, frozen=True):
    """What a walk along the chain found.

    `seq` is the number of the first bad line, and None where nothing is wrong or where a row follows from no line at all;
    `hash` is that of the newest line.
    """

    lines: int
    hash: str
    problem: str | None = None
    seq: int | None = None

    @property
    def intact(self) -> bool:
        return self.problem is None


def verify(connection: sa.Connection, anchor: tuple[int, str] | None) -> Verification:
    """Compare each line with its hash, the last one with the head, and the tables for SQL with what the lines say.

    `anchor` is the number and the hash of a line, as they were once seen.
    """
    walk = _Walk(anchor)
    problem = walk.through(connection) or walk.up_to_the_head(connection) or walk.beside_the_tables(connection)
    said, seq = problem or (None, None)
    return Verification(walk.lines, walk.hash, said, seq)


_Problem = tuple[str, int | None]
_BLOCK = 1000


class _Walk:
    def __init__(self, anchor: tuple[int, str] | None) -> None:
        self.lines, self.hash = 0, ""
        self._anchor = anchor
        self._entries: dict[str, list[Entry]] = {}
        self._rows: dict[tuple[str, tuple[Any, ...]], dict[str, Any]] = {}
        self._first: dict[tuple[str, tuple[Any, ...]], int] = {}

    def through(self, connection: sa.Connection) -> _Problem | None:
        for block in (_BLOCK, 1):
            query = sa.select(ENTRIES).order_by(ENTRIES.c.seq)
            if self.lines:
                query = query.where(ENTRIES.c.seq > self.lines)
            try:
                for found in connection.execute(query.execution_options(yield_per=block)):
                    if (problem := self._step(Row.read(found))) is not None:
                        return problem
            except ValueError:  # a moment that is none, somewhere in this block
                continue
            break
        else:
            return f"line {self.lines + 1} cannot be read", self.lines + 1
        if self._anchor is not None and self._anchor[0] > self.lines:
            return f"the ledger ends at line {self.lines}, though line {self._anchor[0]} was there", self.lines + 1
        return None

    def _step(self, row: Row) -> _Problem | None:
        expected = self.lines + 1
        if row.seq < 1:
            return f"a line has the number {row.seq}, and the first is 1", row.seq
        if row.seq != expected:
            return f"line {expected} is missing", expected
        if row.previous_hash != self.hash:
            return f"line {row.seq} does not follow the line before it", row.seq
        if row.digest() != row.hash:
            return f"line {row.seq} is not what was written", row.seq
        if self._anchor is not None and row.seq == self._anchor[0] and row.hash != self._anchor[1]:
            return f"line {row.seq} has not the hash that it had: up to here, lines were written anew", row.seq
        self.lines, self.hash = row.seq, row.hash
        try:
            entry = row.entry()
        except LedgerDamaged as error:
            return str(error), row.seq
        self._entries.setdefault(row.model, []).append(entry)
        for table in (INCIDENTS, DECISIONS):
            self._first.setdefault((table.name, (row.model, row.subject)), row.seq)
        if (event := event_row(row.seq, entry)) is not None:
            table, cells = event
            self._rows[table.name, identity(table, cells)] = dict(cells)
            self._first[table.name, identity(table, cells)] = row.seq
        return None

    def up_to_the_head(self, connection: sa.Connection) -> _Problem | None:
        head = connection.execute(sa.select(HEAD.c.seq, HEAD.c.hash)).first()
        if head is None:
            return "the head of the ledger is missing, so that its end cannot be known", self.lines
        if head.seq > self.lines:
            return f"the ledger ends at line {self.lines}, though {head.seq} were written", self.lines + 1
        if head.seq < self.lines:
            return f"there are {self.lines} lines, though only {head.seq} were written", head.seq + 1
        if head.hash != self.hash:
            return f"line {self.lines} is not the newest one that was written", self.lines
        return None

    def beside_the_tables(self, connection: sa.Connection) -> _Problem | None:
        for record in (fold(model, entries) for model, entries in self._entries.items()):
            for incident in record.incidents:
                self._rows[INCIDENTS.name, (record.model, incident.id)] = dict(incident_row(incident))
            for decision in record.decisions:
                self._rows[DECISIONS.name, (record.model, decision.id)] = dict(decision_row(decision))
        problems: list[_Problem] = []
        for table in VIEWS:
            try:
                there = {identity(table, cells): cells for cells in _all(connection, table)}
            except ValueError as error:
                problems.append((f"the table {table.name} cannot be read: {error}", None))
                continue
            said = {key: cells for (name, key), cells in self._rows.items() if name == table.name}
            for key in there.keys() | said.keys():
                seq = self._first.get((table.name, key))
                name = f"the row {'/'.join(map(str, key))} of table {table.name}"
                if key not in there:
                    problems.append((f"{name} is missing", seq))
                elif key not in said:
                    problems.append((f"{name} follows from no line", seq))
                elif differing := sorted(one for one in said[key] if said[key][one] != there[key][one]):
                    problems.append((f"{name} says something else than the lines: {', '.join(differing)}", seq))
        return min(problems, key=lambda one: (one[1] or 0, one[0]), default=None)


def _all(connection: sa.Connection, table: sa.Table) -> list[dict[str, Any]]:
    return [dict(found._mapping) for found in connection.execute(sa.select(table))]
