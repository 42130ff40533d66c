"""A client that asks at a fixed rate whether or not it is answered, in a process of its own, pinned to the client's core.

Latency counts from the moment at which a request was due, so that one that had to wait behind others is not flattered. What is
made of the answers is told in the benchmarks.

Run by `asked`: ``python -m benchmarks.open_loop <url> <bodies> <answers.npz> <rates> <headers>``
"""

import asyncio
import contextlib
import gc
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop
from numpy.typing import NDArray

from benchmarks.common import ROOT
from benchmarks.servers import CLIENT_CORE, CannotMeasure, Headers

BROKEN: Final = 0  # the status of a request whose connection broke, or that found none to be sent on
LATE: Final = -1  # of one without an answer at the end
_CONNECTIONS: Final = 512
_LAST_ANSWER_S: Final = 10.0
_TICK_S: Final = 0.001
_VERSION = re.compile(rb'"model_version":(\d+)')


@dataclass(frozen=True)
class Answers:
    """What became of each request, in the order in which they were due.

    Attributes
    ----------
    due, done
        By `time.monotonic()`, in seconds; `done` is NaN where there is no answer.
    status
        Of HTTP, or `BROKEN` or `LATE`.
    version
        Of the model that answered; 0 where none did.
    """

    due: NDArray[np.float64]
    done: NDArray[np.float64]
    status: NDArray[np.int64]
    version: NDArray[np.int64]

    @property
    def ms(self) -> NDArray[np.float64]:
        """From when a request was due to its answer."""
        return (self.done - self.due) * 1e3

    def between(self, start: float, end: float) -> "Answers":
        """Those that were due in `[start, end)`."""
        chosen = (self.due >= start) & (self.due < end)
        return Answers(self.due[chosen], self.done[chosen], self.status[chosen], self.version[chosen])


@dataclass
class Asking:
    """A client at work; `answers` waits for its end, `stop` asks nothing more."""

    process: "subprocess.Popen[bytes]"
    _path: Path

    def stop(self) -> None:
        self.process.terminate()

    def answers(self) -> Answers:
        """Raises `CannotMeasure` when the client failed."""
        if self.process.wait():
            raise CannotMeasure(f"the client ended with {self.process.returncode}: what it said is above")
        with np.load(self._path, allow_pickle=False) as found:
            return Answers(**found)


@contextlib.contextmanager
def asking(url: str, bodies: Path, phases: Sequence[tuple[float, float]], headers: Headers) -> Iterator[Asking]:
    """Ask in the background for the length of a block, in phases of (requests a second, seconds)."""
    with tempfile.TemporaryDirectory(prefix="open-loop-") as folder:
        path = Path(folder) / "answers.npz"
        given = [url, str(bodies), str(path), json.dumps(list(phases)), json.dumps(dict(headers))]
        command = ["taskset", "-c", str(CLIENT_CORE), sys.executable, "-m", "benchmarks.open_loop", *given]
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            yield Asking(process, path)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


# ---- in the client's process


class _Client:
    def __init__(self, due: NDArray[np.float64], requests: list[bytes], host: str, port: int) -> None:
        self._due = due
        self._requests = requests
        self._address = host, port
        self._idle: list[_Connection] = []
        self._waiting: deque[int] = deque()
        self._connections = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._told = 0
        self._stop = asyncio.Event()
        self.done = np.full(len(due), np.nan)
        self.status = np.full(len(due), LATE)
        self.version = np.zeros(len(due), dtype=np.int64)

    async def run(self) -> int:
        """Returns how many were asked."""
        place, due = 0, self._due
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop.set)
        while place < len(due) and not self._stop.is_set():
            now = time.monotonic()
            while place < len(due) and due[place] <= now:
                self._ask(place)
                place += 1
            await asyncio.sleep(_TICK_S)
        end = time.monotonic() + _LAST_ANSWER_S
        while self._told < place and time.monotonic() < end:
            await asyncio.sleep(0.01)
        return place

    def answered(self, place: int, status: int, body: bytes) -> None:
        self.done[place] = time.monotonic()
        self.status[place] = status
        if status == 200 and (match := _VERSION.search(body)):
            self.version[place] = int(match[1])
        self._told += 1

    def broke(self, place: int) -> None:
        self.status[place] = BROKEN
        self._told += 1

    def freed(self, connection: "_Connection") -> None:
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def closed(self, connection: "_Connection") -> None:
        self._connections -= 1
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        if self._waiting:
            self._open()

    def _ask(self, place: int) -> None:
        if self._idle:
            self._send(self._idle.pop(), place)
            return
        self._waiting.append(place)
        if self._connections < _CONNECTIONS:
            self._open()

    def _send(self, connection: "_Connection", place: int) -> None:
        connection.send(place, self._requests[place % len(self._requests)])

    def _open(self) -> None:
        self._connections += 1
        task = asyncio.create_task(self._connect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Connection(self), *self._address)
        except OSError:
            self._connections -= 1
            if self._waiting:
                self.broke(self._waiting.popleft())


class _Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._place: int | None = None
        self._body = b""
        self._transport: Any = None
        self._parser: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._client.freed(self)

    def send(self, place: int, request: bytes) -> None:
        self._place, self._body = place, b""
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._place is not None:
            self._client.broke(self._place)
        self._client.closed(self)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        assert self._place is not None
        place, self._place = self._place, None
        self._client.answered(place, self._parser.get_status_code(), self._body)
        if not self._parser.should_keep_alive():
            self._transport.close()
        else:
            self._client.freed(self)


def _main(url: str, bodies: str, path: str, phases: str, headers: str) -> None:
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in json.loads(headers).items()]
    requests = []
    for body in Path(bodies).read_bytes().splitlines():
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        requests.append(head.encode() + body)
    assert parts.hostname is not None
    assert parts.port is not None
    begin, due = time.monotonic() + 0.2, []
    for rate, seconds in json.loads(phases):
        due.append(begin + np.arange(int(rate * seconds)) / rate)
        begin += seconds
    client = _Client(np.concatenate(due), requests, parts.hostname, parts.port)
    # A pause of the client's own would look like one of the server's.
    gc.freeze()
    gc.disable()
    asked = slice(uvloop.run(client.run()))
    found = {"due": np.concatenate(due), "done": client.done, "status": client.status, "version": client.version}
    np.savez(path, **{name: values[asked] for name, values in found.items()})


if __name__ == "__main__":
    _main(*sys.argv[1:])
