"""A real NATS server with JetStream of the tests' own, on 127.0.0.1 and in a folder of its own, gone at the end."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlops_assets_tests.requirements import needs
from mlops_assets_tests.waiting import wait_until


@dataclass
class NatsServer:
    """A server that can be stopped and started again on what it has stored."""

    program: str
    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [self.program, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._answers)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(20)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def nats_server(folder: Path) -> Iterator[NatsServer]:
    """Start a server and stop it. Skips, or fails where nothing may be skipped, without the program."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    program = needs(shutil.which("nats-server") or "/usr/sbin/nats-server")  # where Debian puts it, and not all look
    server = NatsServer(program, folder, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()
