"""A real PostgreSQL server of the tests' own, on 127.0.0.1 and in a folder of its own, gone at the end."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from mlops_assets_tests.requirements import needs


@dataclass(frozen=True)
class Postgres:
    """A running server; `url` names one of its databases for SQLAlchemy."""

    port: int
    programs: Path
    folder: Path

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://tests@127.0.0.1:{self.port}/{database}"

    def make_database(self, name: str) -> str:
        """The URL of a new, empty database."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="tests", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "start", "--wait", "--log", str(self.folder / "log"), "--options", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--wait", "--mode", "immediate")

    def _run(self, program: str, *arguments: str) -> None:
        data = str(self.folder / "data")
        done = subprocess.run(
            [str(self.programs / program), "--pgdata", data, *arguments],
            user=_unprivileged(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=120,
        )
        assert done.returncode == 0, f"{program} failed: {self.folder / 'log'}"


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Start a server and stop it. Skips, or fails where nothing may be skipped, without PostgreSQL's programs."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = needs(shutil.which("initdb") or (str(debian[-1]) if debian else "initdb"))
    folder = Path(tempfile.mkdtemp(prefix="mlops-postgres-"))
    try:
        if (user := _unprivileged()) is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        server = Postgres(_free_port(), Path(initdb).parent, folder)
        server._run("initdb", "--username=tests", "--auth=trust", "--encoding=UTF8", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _unprivileged() -> str | None:
    """Whom the server runs as: it refuses to be root."""
    if os.geteuid() != 0:
        return None
    users = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
