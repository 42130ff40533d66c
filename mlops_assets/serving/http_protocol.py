"""How a worker reads requests and writes replies: predictions without a task for each, replies in one system call each.

uvicorn makes a task, an event and a cycle of messages for each request, which costs more than to answer one; requests that
`at_once.py` takes need none of them, everything else goes uvicorn's way. And uvicorn writes head and body of a reply by themselves.
Each write wakes the caller, which costs more than to make the answer; and of many connections the first are waked before the
others have been answered. What is written is not looked at here.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

from uvicorn import config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from mlops_assets.serving.errors import Headers

_CLOSE = (b"connection", b"close")


class Caller(Protocol):
    """Whoever waits for an answer; one that has left is told in vain."""

    def reply(self, status: int, body: bytes, headers: Headers) -> None: ...


@dataclass(frozen=True)
class GoTheUsualWay:
    """What is said of a request that is not answered at once, and what its ASGI scope is to say of what was found out."""

    known: Mapping[str, object]


class Answerer(Protocol):
    """Whoever answers requests at once, such as `AtOnce`."""

    def takes(self, target: bytes) -> bool: ...

    def take(
        self, caller: Caller, target: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> GoTheUsualWay | None: ...

    def end_turn(self) -> None: ...


def speak(answerer: Answerer) -> None:
    """Let uvicorn take `AnsweringProtocol` where it is not told which protocol to take, as BentoML does not tell it."""
    config.HTTP_PROTOCOLS["auto"] = partial(AnsweringProtocol, answerer)  # type: ignore[assignment]


class AnsweringProtocol(HttpToolsProtocol):
    """uvicorn's protocol, over a transport that joins writes, with a short cut for what an answerer takes.

    A request takes it when its head and body have come together, nothing before it on this connection waits for an answer, and
    nothing is special about how it is to be answered.
    """

    def __init__(self, answerer: Answerer, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._answerer = answerer
        self._heads = _Heads()
        self._is_short = False
        self._body = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._joined = JoiningTransport(transport, self.loop)
        super().connection_made(self._joined)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # uvicorn's timer, if the connection was reset, would hold the last request and all that answered it for a long while.
        self._unset_keepalive_if_required()
        self.cycle = self.scope = self.headers = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_short:  # the rest of the body is still to come, or nothing is after a mistake
            self._is_short = False
            body, self._body = self._body, b""
            if not self.transport.is_closing():
                self._go_the_long_way(body)

    def eof_received(self) -> None:
        # The caller sends no more and still waits: the loop is about to close what is below, which knows nothing of what waits.
        self._answerer.end_turn()
        self._joined.write_waiting()

    def send_400_response(self, msg: str) -> None:
        self._answerer.end_turn()
        super().send_400_response(msg)

    def end_turn(self) -> None:
        """Let whoever was taken at once be answered now."""
        self._answerer.end_turn()

    def shutdown(self) -> None:
        self._answerer.end_turn()
        super().shutdown()

    def reply(self, status: int, body: bytes, headers: Headers) -> None:
        """Answer the oldest request that was taken at once and is not answered yet."""
        if self.transport.is_closing():
            return
        self.server_state.total_requests += 1
        defaults = self.server_state.default_headers
        if self._heads.defaults is not defaults:
            self._heads.render(defaults)
        head = self._heads.answered if status == 200 and not headers else self._heads.of(status, headers)
        self._joined.write_now(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        if self._heads.closing or (headers and _CLOSE in headers):
            self._joined.close()
        elif self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_message_begin(self) -> None:
        # What uvicorn needs of a request is made when it goes uvicorn's way.
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        parser, cycle = self.parser, self.cycle
        self._is_short = (
            self._answerer.takes(self.url)
            and (cycle is None or cycle.response_complete)
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not (self.expect_100_continue or self.flow.write_paused or self.root_path)
            and self.limit_concurrency is None
        )
        self._body = b""
        if not self._is_short:
            self._begin_the_long_way()

    def on_body(self, body: bytes) -> None:
        if self._is_short:
            self._body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_short:
            super().on_message_complete()
        else:
            self._is_short = False
            body, self._body = self._body, b""  # not kept until the next request comes
            otherwise = self._answerer.take(self, self.url, self.headers, body)
            if otherwise is None:
                self.cycle = None  # type: ignore[assignment]  # of the last request that took the long way
            else:
                self._go_the_long_way(body, otherwise.known)
                super().on_message_complete()

    def _go_the_long_way(self, body: bytes, known: Mapping[str, object] = MappingProxyType({})) -> None:
        self._begin_the_long_way()
        self.scope.update(known)  # type: ignore[typeddict-item]
        if body:
            super().on_body(body)

    def _begin_the_long_way(self) -> None:
        # Callers are answered in the order of their requests.
        self._answerer.end_turn()
        self._unset_keepalive_if_required()
        target, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = target, expects
        self.headers.extend(headers)
        super().on_headers_complete()


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

    def write_now(self, data: bytes) -> None:
        """Write what waits, and this."""
        if self._waiting:
            self._waiting.append(data)
            self.write_waiting()
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Write what waits, then close."""
        self.write_waiting()
        self._transport.close()

    def write_waiting(self) -> None:
        """Write now what was to be written soon."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._transport.write(b"".join(waiting))


class _Heads:
    """Heads of replies up to the length of their body, made anew when uvicorn's own headers change, which has the date in them."""

    def __init__(self) -> None:
        self.defaults: list[tuple[bytes, bytes]] | None = None
        self.answered = b""
        self.closing = False

    def render(self, defaults: list[tuple[bytes, bytes]]) -> None:
        self.defaults = defaults
        self.closing = any(name.lower() == b"connection" and b"close" in value.lower() for name, value in defaults)
        self.answered = self.of(200, ())

    def of(self, status: int, headers: Headers) -> bytes:
        lines = [
            name + b": " + value + b"\r\n"
            for name, value in (*(self.defaults or ()), *headers, (b"content-type", b"application/json"))
        ]
        return b"".join([STATUS_LINE[status], *lines, b"content-length: "])
