"""What a ledger says, and what it keeps, when its database is held, full, damaged, gone, or not to be written."""

import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlops_assets.core.ledger import Joined
from mlops_assets.stores.database import LedgerUnavailable
from mlops_assets.stores.ledger import Ledger
from mlops_assets.stores.ledger_chain import LedgerDamaged
from mlops_assets_tests.core.ledger_examples import entry, opened
from mlops_assets_tests.postgres import Postgres
from mlops_assets_tests.stores.beside import connected


def test_one_that_another_process_holds(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(f"sqlite:///{path}", patience_s=0.1)
    ledger.record(entry("i-1", opened()))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailable, match=r"ledger\.db cannot be used: database is locked\. Another process"):
            ledger.record(entry("i-1", Joined("info")))
        assert ledger.of("delay").incidents[0].times_found == 1
        other.execute("ROLLBACK")
    assert ledger.record(entry("i-1", Joined("info")))


def test_one_that_must_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger(f"sqlite:///{path}").record(entry("i-1", opened()))
    url = f"sqlite:///file:{path}?mode=ro&uri=true"
    with pytest.raises(LedgerUnavailable, match=r"readonly database\. Make it writable"):
        Ledger(url, patience_s=0.1).record(entry("i-1", Joined("info")))


def test_one_whose_disk_is_full(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.record(entry("i-1", opened()))
    with ledger.database.writing() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
    with pytest.raises(LedgerUnavailable, match=r"full\. Free some space"):
        ledger.record(entry("i-1", Joined("info", evidence=("x" * 1_000_000,))))
    assert ledger.verify().intact


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(LedgerUnavailable, match=r"file is not a database\. Restore it from a backup"):
        Ledger(f"sqlite:///{path}").head()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerUnavailable, match="its folder cannot be made"):
        Ledger(f"sqlite:///{tmp_path / 'file' / 'ledger.db'}").head()


def test_a_server_that_is_not_there_and_no_password_is_told() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ledger = Ledger(f"postgresql+psycopg://ann:hunter2@127.0.0.1:{port}/ledger?password=hunter2", patience_s=1)
    with pytest.raises(LedgerUnavailable, match=rf"postgresql ledger on 127\.0\.0\.1:{port} cannot be used") as told:
        ledger.head()
    assert "hunter2" not in str(told.value)
    assert "MLOPS_LEDGER_URL" in str(told.value)


@pytest.mark.parametrize("url", ["no url", "sqlite://", "mysql+nothing://x/y"])
def test_a_url_of_no_use(url: str) -> None:
    with pytest.raises(LedgerUnavailable, match=r"sqlite:///<path>|mlops-assets\[postgres\]"):
        Ledger(url).head()


def test_a_line_that_no_version_has_written(url: str) -> None:
    ledger = Ledger(url)
    ledger.record(entry("i-1", opened()))
    with connected(url) as connection:
        connection.execute(sa.text("UPDATE entries SET body = '{}'"))
    with pytest.raises(LedgerDamaged, match=r"line 1 of the ledger .*audit verify"):
        ledger.entries()


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back(postgres: Postgres) -> None:
    ledger = Ledger(postgres.make_database("restarted"), patience_s=2)
    ledger.record(entry("i-1", opened()))
    postgres.stop()
    with pytest.raises(LedgerUnavailable, match="postgresql restarted on 127"):
        ledger.of("delay")
    postgres.start()
    assert ledger.record(entry("i-1", Joined("info")))
    assert ledger.verify().intact


@pytest.mark.slow
def test_a_table_that_another_transaction_holds(postgres: Postgres) -> None:
    url = postgres.make_database("held")
    ledger = Ledger(url, patience_s=0.2)
    ledger.record(entry("i-1", opened()))
    with connected(url) as other:
        other.execute(sa.text("SELECT * FROM head FOR UPDATE"))
        with pytest.raises(LedgerUnavailable, match=r"lock timeout\. Another transaction holds it"):
            ledger.record(entry("i-1", Joined("info")))
        assert ledger.of("delay").incidents[0].times_found == 1
    assert ledger.record(entry("i-1", Joined("info")))


@pytest.mark.slow
def test_a_server_that_only_reads(postgres: Postgres) -> None:
    url = postgres.make_database("reading")
    Ledger(url).record(entry("i-1", opened()))
    with connected(url) as connection:
        connection.execute(sa.text("ALTER DATABASE reading SET default_transaction_read_only = on"))
    ledger = Ledger(url)
    with pytest.raises(LedgerUnavailable, match=r"read-only transaction\. Make it writable"):
        ledger.record(entry("i-1", Joined("info")))
    assert ledger.of("delay").incidents[0].times_found == 1
