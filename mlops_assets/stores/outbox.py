"""Notices that wait to be sent, and what became of each at each receiver. Sending is the business of `operations/notify.py`.

A receiver is known here by a name that holds nothing secret; its address stays in the model's declaration.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, cast

import msgspec
import sqlalchemy as sa

from mlops_assets.core.ledger import Severity
from mlops_assets.core.notices import Notice
from mlops_assets.stores.database import Database
from mlops_assets.stores.ledger_tables import DELIVERIES, OUTBOX

State = Literal["waiting", "sent", "given up", "no receiver"]


class Delivery(msgspec.Struct, frozen=True):
    """How one notice fares at one receiver. `error` is what went wrong at the last attempt."""

    receiver: str
    state: Literal["waiting", "sent", "given up"]
    attempts: int
    at: datetime
    next_at: datetime
    error: str = ""


class Posted(msgspec.Struct, frozen=True):
    """A notice in the outbox. `state` is "sent" when all its receivers have it, "given up" when one of them never got it."""

    notice: Notice
    put_at: datetime
    state: State
    next_at: datetime
    deliveries: tuple[Delivery, ...] = ()


class Outbox:
    """The outbox beside the ledger, in the same database. Raises `LedgerUnavailable` like the ledger itself."""

    def __init__(self, database: Database):
        self._database = database

    def put(self, notice: Notice, at: datetime) -> bool:
        """Add a notice, to be sent at once; False when its key was there already: each is told once."""
        with self._database.writing() as connection:
            return put(connection, notice, at)

    def claim(self, now: datetime, until: datetime, limit: int = 50) -> tuple[Posted, ...]:
        """The notices that are due, oldest first; nobody else is given them before `until`, unless they are settled."""
        with self._database.writing() as connection:
            query = (
                sa.select(OUTBOX)
                .where(OUTBOX.c.state == "waiting", OUTBOX.c.next_at <= now)
                .order_by(OUTBOX.c.put_at, OUTBOX.c.key)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            claimed = connection.execute(query).all()
            keys = [found.key for found in claimed]
            connection.execute(sa.update(OUTBOX).where(OUTBOX.c.key.in_(keys)).values(next_at=until))
            return _posted(connection, claimed)

    def settle(self, key: str, deliveries: Mapping[str, Delivery], now: datetime) -> State:
        """Write down how a claimed notice fared at its receivers, and what follows for the notice, which is returned."""
        waiting = [one.next_at for one in deliveries.values() if one.state == "waiting"]
        state: State
        if waiting:
            state = "waiting"
        elif not deliveries:
            state = "no receiver"
        else:
            state = "given up" if any(one.state == "given up" for one in deliveries.values()) else "sent"
        with self._database.writing() as connection:
            connection.execute(sa.delete(DELIVERIES).where(DELIVERIES.c.key == key))
            if rows := [{"key": key} | msgspec.structs.asdict(one) for one in deliveries.values()]:
                connection.execute(sa.insert(DELIVERIES), rows)
            next_at = min(waiting, default=now)
            connection.execute(sa.update(OUTBOX).where(OUTBOX.c.key == key).values(state=state, next_at=next_at))
        return state

    def all(self, *states: State, model: str | None = None) -> tuple[Posted, ...]:
        """Notices with how they fare, oldest first; in these states, and of one model, where they are given."""
        query = sa.select(OUTBOX).order_by(OUTBOX.c.put_at, OUTBOX.c.key)
        if states:
            query = query.where(OUTBOX.c.state.in_(states))
        if model is not None:
            query = query.where(OUTBOX.c.model == model)
        with self._database.reading() as connection:
            return _posted(connection, connection.execute(query).all())


def put(connection: sa.Connection, notice: Notice, at: datetime) -> bool:
    """Add a notice in somebody's transaction; False when its key is there already."""
    if connection.execute(sa.select(OUTBOX.c.key).where(OUTBOX.c.key == notice.key)).first() is not None:
        return False
    cells = msgspec.structs.asdict(notice) | {"put_at": at, "state": "waiting", "next_at": at}
    connection.execute(sa.insert(OUTBOX), [cells])
    return True


def _posted(connection: sa.Connection, found: Sequence[sa.Row[Any]]) -> tuple[Posted, ...]:
    query = (
        sa.select(DELIVERIES).where(DELIVERIES.c.key.in_([row.key for row in found])).order_by(DELIVERIES.c.receiver)
    )
    deliveries: dict[str, list[Delivery]] = {}
    for row in connection.execute(query):
        cells = dict(row._mapping)
        deliveries.setdefault(cells.pop("key"), []).append(Delivery(**cells))
    return tuple(
        Posted(
            Notice(row.key, row.model, row.title, row.body, cast(Severity, row.severity)),
            row.put_at,
            row.state,
            row.next_at,
            tuple(deliveries.get(row.key, ())),
        )
        for row in found
    )
