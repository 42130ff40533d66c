"""The running system of a drill: the supervised service and Dagster's daemon, as processes that can be killed one by one.

Both are those that `mlops-assets serve` and `dagster dev` start. What is done to them is the business of the drills.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx

from mlops_assets.drills.ground import Ground
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE, free_port
from mlops_assets.stores.files import make_folder

GRACE_S = 20.0
READY_S = 300.0  # on a busy machine too
DAEMON = ("-m", "dagster._daemon", "run", "--workspace", "workspace.yaml")


class NotStarted(RuntimeError):
    """A part of the system does not start; its output says why."""


@dataclass
class Program:
    """A program in a process session of its own, with its output in a file."""

    name: str
    arguments: tuple[str, ...]
    folder: Path
    output: Path
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *self.arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL to all processes of the session at once, as when the machine fails."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        """Ask it to end, and kill whatever is left of its session."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        self.kill()

    def said(self, lines: int = 15) -> str:
        """The end of its output."""
        text = self.output.read_text(errors="replace") if self.output.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


@dataclass
class System:
    """A service with so many workers, and a daemon; the daemon is not started before it is wanted."""

    ground: Ground
    stores: Stores
    url: str
    workers: int
    service: Program
    daemon: Program

    def worker_pids(self) -> set[int]:
        """The serving workers that are alive."""
        return {one.pid for one in self.stores.workers.live(datetime.now(UTC), HEARTBEAT_MAX_AGE)}

    def server_pid(self) -> int:
        """The process that the supervisor has started, and that starts the workers."""
        return parent_of(min(self.worker_pids()))

    def is_answering(self) -> bool:
        """Does the service say that it is ready?"""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def is_whole(self) -> bool:
        """Are all workers alive and answering?"""
        return len(self.worker_pids()) == self.workers and self.is_answering()


@contextmanager
def running_system(ground: Ground, *, workers: int = 1, daemon: bool = True) -> Iterator[System]:
    """A system on the ground for the length of a block, when its service answers; no process is left when the block ends.

    Raises
    ------
    NotStarted
        When the service is not ready in time.
    """
    port = free_port()
    serve = ("-m", "mlops_assets.cli", "serve", "--port", str(port), "--workers", str(workers))
    project, logs = ground.project, ground.home.root
    make_folder(logs)
    system = System(
        ground,
        Stores(ground.home),
        f"http://127.0.0.1:{port}",
        workers,
        Program("service", serve, project, logs / "service.log"),
        Program("daemon", DAEMON, project, logs / "daemon.log"),
    )
    with ground.environment():
        try:
            system.service.start()
            if daemon:
                system.daemon.start()
            _wait_until_whole(system)
            yield system
        finally:
            servers = _children_of(system.service.pid) if system.service.is_running else []
            system.daemon.end()
            system.service.end()
            for pid in servers:
                _end_session(pid)


def _wait_until_whole(system: System) -> None:
    deadline = time.monotonic() + READY_S
    while not system.is_whole():
        if not system.service.is_running or time.monotonic() >= deadline:
            raise NotStarted(f"the service on {system.url} does not start:\n{system.service.said()}")
        time.sleep(0.1)


def parent_of(pid: int) -> int:
    """The process that has started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _children_of(pid: int) -> list[int]:
    found = []
    for place in Path("/proc").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            if place.name.isdigit() and parent_of(int(place.name)) == pid:
                found.append(int(place.name))
    return found


def _end_session(pid: int) -> None:
    """The service runs in a session of its own below its supervisor, and outlives it only for a moment."""
    deadline = time.monotonic() + GRACE_S
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.1)
        os.killpg(pid, signal.SIGKILL)
