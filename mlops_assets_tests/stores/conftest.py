"""The databases that the ledger is tried on."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from mlops_assets_tests.postgres import Postgres, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that nothing was ever written to: on SQLite, and among the slow tests on a real PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.make_database(f"ledger_{uuid4().hex}")
