"""A SQL database by URL: transactions, migrations, and errors that say where and what to do. What its tables mean is unknown here.

On SQLite a writing transaction takes the write lock when it begins, and readers never wait for it (write-ahead log). On PostgreSQL
transactions are as usual; who must be alone locks a row.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mlops_assets.stores.files import locked, make_folder
from mlops_assets.stores.ledger_tables import REVISION

_MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x6D6C6F70  # any number that no other program on the database takes
_MIGRATING = threading.Lock()  # Alembic holds what it works on in its modules
_BEGIN = "mlops_begin"  # the statement that begins a transaction on SQLite
_WRITES = {_BEGIN: "BEGIN IMMEDIATE"}


class LedgerUnavailable(RuntimeError):
    """The database cannot be read or written now; the message says which one, why, and what to do."""


class Database:
    """One database, opened and brought up to date when it is first used. Threads and processes may share it.

    Parameters
    ----------
    url
        Of SQLAlchemy: `sqlite:///<absolute path>` or `postgresql+psycopg://...`.
    patience_s
        How long a transaction waits for those of others.
    """

    def __init__(self, url: str, patience_s: float = 30.0):
        try:
            self._url = sa.make_url(url)
        except ArgumentError as error:
            raise LedgerUnavailable(
                "the URL of the ledger cannot be read: write sqlite:///<path> or postgresql+psycopg://user@host/database"
            ) from error
        if self.is_sqlite and self._url.database in (None, "", ":memory:"):
            raise LedgerUnavailable("the URL of the ledger names no file: write sqlite:///<path>")
        self.place = _place(self._url)
        self._patience_s = patience_s
        self._lock = threading.RLock()
        self._engine: sa.Engine | None = None
        self._pid = 0

    @property
    def is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that may write: committed at the end, undone when the block raises. Raises `LedgerUnavailable`."""
        with self._told(), self._opened().execution_options(**_WRITES).begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that reads all from one moment. Raises `LedgerUnavailable`."""
        with self._told():
            options: dict[str, Any] = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
            with self._opened().execution_options(**options).begin() as connection:
                yield connection

    def _opened(self) -> sa.Engine:
        with self._lock:
            if self._engine is not None and self._pid != os.getpid():
                self._engine.dispose(close=False)  # they are the parent's connections
                self._pid = os.getpid()
            if self._engine is None:
                engine = self._connect()
                self._migrate(engine)
                self._engine, self._pid = engine, os.getpid()
            return self._engine

    def _connect(self) -> sa.Engine:
        arguments: dict[str, Any]
        if self.is_sqlite:
            self._make_folder()
            arguments = {"timeout": self._patience_s}
        else:
            arguments = {"connect_timeout": max(1, round(self._patience_s))}
        try:
            engine = sa.create_engine(self._url, connect_args=arguments, pool_pre_ping=not self.is_sqlite)
        except (ModuleNotFoundError, NoSuchModuleError) as error:
            raise LedgerUnavailable(
                f"the ledger at {self.place} needs a driver that is not installed ({error}): "
                "install mlops-assets[postgres] and write postgresql+psycopg://..."
            ) from error
        if self.is_sqlite:
            sa.event.listen(engine, "connect", _leave_transactions_to_us)
            sa.event.listen(engine, "begin", _begin)
        else:
            sa.event.listen(engine, "connect", _wait_at_most(round(self._patience_s * 1000)))
        return engine

    def _make_folder(self) -> None:
        try:
            make_folder(self._path.parent)
        except OSError as error:
            raise LedgerUnavailable(
                f"the ledger at {self.place}: its folder cannot be made ({error}): mend that, or set MLOPS_LEDGER_URL"
            ) from error

    @property
    def _path(self) -> Path:
        return Path((self._url.database or "").removeprefix("file:")).absolute()

    def _migrate(self, engine: sa.Engine) -> None:
        if self._revision(engine) == REVISION:
            return
        with _MIGRATING, self._alone():
            if self.is_sqlite:
                with engine.connect().execution_options(**{_BEGIN: ""}) as connection:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            with engine.execution_options(**_WRITES).begin() as connection:
                if not self.is_sqlite:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
                self._upgrade(connection)

    def _alone(self) -> AbstractContextManager[None]:
        # SQLite does not wait for others when it changes its journal, whatever its time limit says
        return locked(self._path.with_name(f"{self._path.name}.lock")) if self.is_sqlite else nullcontext()

    @staticmethod
    def _revision(engine: sa.Engine) -> str | None:
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
            return revision

    def _upgrade(self, connection: sa.Connection) -> None:
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise LedgerUnavailable(
                f"the ledger at {self.place} was made by another version of mlops-assets ({error}): upgrade this one"
            ) from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (IntegrityError, DataError):
            raise
        except (DBAPIError, PoolTimeout, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            why = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            raise LedgerUnavailable(f"the ledger at {self.place} cannot be used: {why}. {_remedy(why)}") from error


def _place(url: sa.URL) -> str:
    """What an error may say of where the database is: no user, no password, no options."""
    if url.get_backend_name() == "sqlite":
        return str(Path(url.database or "").absolute())
    return f"{url.get_backend_name()} {url.database} on {url.host or 'the local socket'}{f':{url.port}' if url.port else ''}"


def _remedy(why: str) -> str:
    known = {
        "locked": "Another process holds it: end that process, or wait for it",
        "lock timeout": "Another transaction holds it: end that one, or wait for it",
        "read-only": "Make it writable for this user",
        "readonly": "Make it writable for this user",
        "full": "Free some space on its disk",
        "not a database": "Restore it from a backup",
        "malformed": "Restore it from a backup",
    }
    return next((remedy for sign, remedy in known.items() if sign in why.lower()), "See that it can be reached") + (
        ", or name another one by MLOPS_LEDGER_URL."
    )


def _leave_transactions_to_us(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # else Python begins transactions by itself, and too late
    connection.execute("PRAGMA synchronous=FULL")


def _begin(connection: sa.Connection) -> None:
    if statement := connection.get_execution_options().get(_BEGIN, "BEGIN"):
        connection.exec_driver_sql(statement)


def _wait_at_most(limit_ms: int) -> Any:
    def limit(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {limit_ms}")
            cursor.execute("SET TIME ZONE 'UTC'")
        connection.commit()

    return limit
