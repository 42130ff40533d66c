"""How a worker's replies reach the socket: all that was written to a connection in one turn of the event loop, in one system call.

uvicorn writes head and body of a reply by themselves. Each write wakes the caller, which costs more than to make the answer; and
of many connections the first are waked before the others have been answered. What is written is not looked at here.
"""

import asyncio
from typing import Any

from uvicorn import config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def join_writes() -> None:
    """Let uvicorn take `JoiningProtocol` where it is not told which protocol to take, as BentoML does not tell it."""
    config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{JoiningProtocol.__name__}"


class JoiningProtocol(HttpToolsProtocol):
    """uvicorn's protocol over a transport that joins writes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._joined = JoiningTransport(transport, self.loop)
        super().connection_made(self._joined)  # type: ignore[arg-type]

    def eof_received(self) -> None:
        # The caller sends no more and still waits: the loop is about to close what is below, which knows nothing of what waits.
        self._joined.write_waiting()


class JoiningTransport:
    """A transport that writes what it was given when the callbacks that are due have been called, or when it is closed."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write soon, after what was given before."""
        if not self._waiting:
            self._loop.call_soon(self.write_waiting)
        self._waiting.append(data)

    def close(self) -> None:
        """Write what waits, then close."""
        self.write_waiting()
        self._transport.close()

    def write_waiting(self) -> None:
        """Write now what was to be written soon."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._transport.write(b"".join(waiting))
