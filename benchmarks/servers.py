"""Servers under load: processes on a core of their own, what they use, and `wrk` on the other core.

Who is served is in `serving_state.py` and `serving_peers.py`; requests at a fixed rate, come what may, in `open_loop.py`.

`wrk` is a package of Debian and Ubuntu (`apt-get install wrk`) and of Homebrew; pinning to cores is Linux's.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import httpx
import psutil

from benchmarks.common import MB, ROOT
from mlops_assets.operations.supervise import free_port

SERVER_CORE: Final = 0
CLIENT_CORE: Final = 1
READY_S: Final = 300.0
GRACE_S: Final = 20.0
_SETTLED_S: Final = 5.0
_LUA: Final = ROOT / "benchmarks" / "wrk.lua"

Headers = Mapping[str, str]


class CannotMeasure(RuntimeError):
    """Something that the benchmark needs is not there, or a server does not do its work; the message says what to do."""


@dataclass(frozen=True)
class Server:
    """A server that answers, with all the processes it has started."""

    url: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Processor time of all its processes and threads so far, in user and kernel mode; ticks of 10 ms."""
        return sum(sum(one.cpu_times()[:2]) for one in self._alive())

    def worker_rss_mb(self) -> float:
        """Resident memory of the process that answers: of those that have started no other, the largest."""
        return max(one.memory_info().rss for one in self._alive() if not one.children()) / MB

    def pause(self) -> None:
        """Stop its processes where they are, so that they take no time from the others."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def settle(self) -> None:
        """Wait until it has done what is left to do after the replies."""
        end = time.monotonic() + _SETTLED_S
        former = -1.0
        while time.monotonic() < end and (now := self.cpu_seconds()) - former > 0.011:
            former = now
            time.sleep(0.1)

    def _alive(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def _signal(self, number: signal.Signals) -> None:
        for one in self._alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)


@dataclass(frozen=True)
class Load:
    """What `wrk` saw, and what it cost the server; `wrong` are answers other than 2xx and broken connections."""

    requests: int
    wrong: int
    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


def require_tools() -> None:
    """Raise `CannotMeasure` without `wrk`, or without two cores to pin to."""
    if shutil.which("wrk") is None:
        raise CannotMeasure("wrk is not installed: apt-get install wrk, or brew install wrk")
    if not hasattr(os, "sched_setaffinity") or not {SERVER_CORE, CLIENT_CORE} <= os.sched_getaffinity(0):
        raise CannotMeasure(
            f"server and client need a core each, {SERVER_CORE} and {CLIENT_CORE}, to be pinned to: use Linux on two cores"
        )


def pin_client() -> None:
    """Keep this process and those it starts, unless they are servers, off the server's core."""
    os.sched_setaffinity(0, {CLIENT_CORE})


@contextlib.contextmanager
def running(
    module: str, *arguments: str, folder: Path, ready: str = "/", environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A Python program that serves, pinned to its core, for the length of a block; no process is left when it ends.

    Parameters
    ----------
    arguments
        Of the module; `{port}` stands for a free one.
    folder
        Where it runs and what it says is kept, in `server.log`.
    ready
        Path that answers something other than 5xx when the server is ready.

    Raises
    ------
    CannotMeasure
        When it is not ready in time, with the end of what it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = str(free_port())
    command = [sys.executable, "-m", module, *(argument.format(port=port) for argument in arguments)]
    # Some start programs of their environment by name.
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    own = {"PYTHONPATH": str(ROOT), "MLOPS_HOME": str(folder), "PATH": programs}
    inherited = {**os.environ, **own, **(environment or {})}
    output = folder / "server.log"
    with output.open("wb") as said:
        process = _start_on_core(command, folder, inherited, said)
    server = Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
    try:
        _wait_until_ready(server, process, ready, output)
        yield server
    finally:
        _end(server, process)


def measure(server: Server, path: str, bodies: Path, connections: int, seconds: float, headers: Headers) -> Load:
    """Ask as fast as so many connections can, for so long; the bodies, one a line, are sent in turn.

    Processor time counts until the server has done what it does after the last reply. Raises `CannotMeasure` when nothing was
    answered.
    """
    server.settle()
    before = server.cpu_seconds()
    told = _wrk(server.url + path, bodies, connections, seconds, headers)
    server.settle()
    cpu = server.cpu_seconds() - before
    requests = int(told["requests"])
    if not requests:
        raise CannotMeasure(f"{server.url}{path} answered nothing in {seconds:g} s over {connections} connections")
    rps, cpu_us = requests / told["seconds"], cpu / requests * 1e6
    return Load(requests, int(told["wrong"]), rps, told["p50_ms"], told["p99_ms"], cpu_us)


def warm_up(server: Server, path: str, bodies: Path, connections: int, seconds: float, headers: Headers) -> None:
    """Ask as `measure` does, and look at nothing."""
    _wrk(server.url + path, bodies, connections, seconds, headers)


def _wrk(url: str, bodies: Path, connections: int, seconds: float, headers: Headers) -> dict[str, float]:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(seconds, 1):g}s", "--timeout", "30s", "-s", str(_LUA), url]
    arguments = ["--", str(bodies), *(f"{name}: {value}" for name, value in headers.items())]
    done = subprocess.run(
        ["taskset", "-c", str(CLIENT_CORE), *command, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def _start_on_core(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], output: IO[bytes]
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        ["taskset", "-c", str(SERVER_CORE), *command],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _wait_until_ready(server: Server, process: "subprocess.Popen[bytes]", path: str, output: Path) -> None:
    end = time.monotonic() + READY_S
    with httpx.Client(trust_env=False, timeout=2) as client:
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if client.get(server.url + path).status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    return
            time.sleep(0.1)
    said = "\n".join(output.read_text(errors="replace").splitlines()[-20:])
    raise CannotMeasure(f"{' '.join(map(str, process.args))} does not start:\n{said}")


def _end(server: Server, process: "subprocess.Popen[bytes]") -> None:
    """Ask it to end, and kill what is left of it and of those that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        everybody = [server.process, *server.process.children(recursive=True)]
        server.go_on()
        process.terminate()
        _, left = psutil.wait_procs(everybody, timeout=GRACE_S)
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()
