"""A project folder with state of its own, and a bare `dagster dev` in it."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from mlops_assets.operations.supervise import free_port
from mlops_assets_tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent


def make_project(folder: Path) -> Path:
    """What a clone has at its root, so that Dagster's commands find what they look for; the package is the installed one."""
    for name in ("dagster.yaml", "workspace.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def environment() -> dict[str, str]:
    """This process's environment without what would lead to other state."""
    return {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "MLOPS_HOME")}


def run_dagster(project: Path, *arguments: str, timeout_s: float = 400) -> str:
    """Run a command of Dagster's in the project; returns what it printed. AssertionError when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "dagster", *arguments],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


@dataclass(frozen=True)
class DagsterDev:
    """A running `dagster dev`: the URL of its UI, and the process whose group all of its processes are in."""

    url: str
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, project: Path) -> Self:
        """A bare `dagster dev` on a free port. End it with `end` or `kill`."""
        port = free_port()
        command = [sys.executable, "-m", "dagster", "dev", "--port", str(port)]
        with (project / f"dagster-dev-{port}.log").open("w") as output:
            process = subprocess.Popen(
                command, cwd=project, env=environment(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        started = cls(f"http://127.0.0.1:{port}", process)
        try:
            wait_until(lambda: _is_loaded(started.url), timeout_s=180, every_s=0.5)
        except BaseException:
            started.kill()
            raise
        return started

    def end(self) -> None:
        """Ask all processes to end, and kill those that are left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to all processes at once, as when the machine fails."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def dagster_dev(project: Path) -> Iterator[str]:
    """A bare `dagster dev` on a free port, with all its processes ended afterwards; yields the URL of the UI."""
    started = DagsterDev.start(project)
    try:
        yield started.url
    finally:
        started.end()


def _is_loaded(url: str) -> bool:
    query = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
    try:
        answer = httpx.post(f"{url}/graphql", json={"query": query}, timeout=30, trust_env=False)
    except httpx.TransportError:
        return False
    return bool(answer.json()["data"]["repositoriesOrError"].get("nodes"))


def ask(url: str, query: str) -> dict[str, object]:
    """The data of a GraphQL query."""
    answer = httpx.post(f"{url}/graphql", json={"query": query}, timeout=60, trust_env=False).json()
    assert "errors" not in answer, answer
    data: dict[str, object] = answer["data"]
    return data
