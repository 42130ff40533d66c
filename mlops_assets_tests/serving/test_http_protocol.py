"""Replies leave in one system call each, whole and in order, whichever way they took; a closing connection is written to first."""

import asyncio
import gc
import socket
import struct
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
import uvicorn
import uvloop

from mlops_assets.serving.http_protocol import Caller, GoTheUsualWay, JoiningTransport, speak
from mlops_assets_tests.serving.harness import Nobody

T = TypeVar("T")


class Recorded:
    """A transport that notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return False


def test_what_is_written_in_one_turn_of_the_loop_is_written_at_once():
    async def go() -> list[Any]:
        inner = Recorded()
        transport = JoiningTransport(inner, asyncio.get_running_loop())  # type: ignore[arg-type]
        transport.write(b"head ")
        transport.write(b"body")
        assert inner.done == []
        await asyncio.sleep(0)
        transport.write(b"next")
        await asyncio.sleep(0)
        assert transport.is_closing() is False
        return inner.done

    assert asyncio.run(go()) == [b"head body", b"next"]


def test_closing_writes_what_waits_first_and_once():
    async def go() -> list[Any]:
        inner = Recorded()
        transport = JoiningTransport(inner, asyncio.get_running_loop())  # type: ignore[arg-type]
        transport.write(b"last words")
        transport.close()
        await asyncio.sleep(0)
        return inner.done

    assert asyncio.run(go()) == [b"last words", "closed"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_caller_that_says_no_more_is_answered(loop: str, monkeypatch: pytest.MonkeyPatch):
    """It has closed its half of the connection with the request, and still reads."""
    monkeypatch.setattr("uvicorn.config.HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    speak(Nobody())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def go() -> list[bytes]:
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        told = []
        for _ in range(5):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            writer.write_eof()
            told.append(await reader.read())
            writer.close()
        server.should_exit = True
        await serving
        return told

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        assert [one.endswith(b"ok") for one in runner.run(go())] == [True] * 5


@pytest.mark.parametrize("size", [1, 5_000_000])
def test_pipelined_requests_are_answered_whole_and_in_order(size: int, monkeypatch: pytest.MonkeyPatch):
    """Over a real socket, with a reply larger than its buffers, and a connection that ends with the last one."""
    monkeypatch.setattr("uvicorn.config.HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    speak(Nobody())
    bodies = [b"%d" % place * size for place in range(3)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = bodies[int(scope["path"][1:])]
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def go() -> bytes:
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        for place in range(3):
            last = b"connection: close\r\n" if place == 2 else b""
            writer.write(b"GET /%d HTTP/1.1\r\nhost: x\r\n%s\r\n" % (place, last))
        told = await reader.read()
        writer.close()
        server.should_exit = True
        await serving
        return told

    told = asyncio.run(go())
    found = [part.partition(b"\r\n\r\n")[2] for part in told.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert found == bodies


class Echo:
    """Takes what is posted to /short, and answers at the end of the turn with what was sent."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self._held: list[tuple[Caller, bytes]] = []

    def takes(self, target: bytes) -> bool:
        return target == b"/short"

    def take(self, caller: Caller, target: bytes, headers: Any, body: bytes) -> GoTheUsualWay | None:
        assert dict(headers)[b"host"] == b"x"
        if body == b"no":
            return GoTheUsualWay({"known": b"refused at once"})
        self.taken.append(body)
        if not self._held:
            asyncio.get_running_loop().call_soon(self.end_turn)
        self._held.append((caller, body))
        return None

    def end_turn(self) -> None:
        held, self._held = self._held, []
        for caller, body in held:
            if body == b"turned away":
                caller.reply(503, body, ((b"retry-after", b"1"), (b"connection", b"close")))
            else:
                caller.reply(200, b"short " + body, ())


async def the_usual_way(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    body = b"long " + scope.get("known", b"") + body
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class Served:
    """A server with both ways, and one connection to it."""

    def __init__(self, server: uvicorn.Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer

    async def replies(self, count: int) -> list[bytes]:
        return [(await self.reply())[1] for _ in range(count)]

    async def reply(self) -> tuple[bytes, bytes]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
        return head, await self.reader.readexactly(length)


def post(body: bytes, target: bytes = b"/short", more: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = b"POST %s HTTP/%s\r\nhost: x\r\ncontent-length: %d\r\n%s\r\n" % (target, version, len(body), more)
    return head + body


def served(monkeypatch: pytest.MonkeyPatch, doing: Callable[[Served], Awaitable[T]], echo: Echo, **settings: Any) -> T:
    monkeypatch.setattr("uvicorn.config.HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    speak(echo)

    async def go() -> T:
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(the_usual_way, log_config=None, lifespan="off", **settings))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        try:
            return await asyncio.wait_for(doing(Served(server, reader, writer)), 60)
        finally:
            writer.close()
            server.should_exit = True
            await serving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(go())


def test_either_way_callers_are_answered_in_the_order_of_their_requests(monkeypatch: pytest.MonkeyPatch):
    echo = Echo()

    async def ask(served: Served) -> list[bytes]:
        several = [post(b"1"), post(b"2"), post(b"3", b"/other"), post(b"4"), post(b"no"), post(b"5")]
        served.writer.write(b"".join(several))
        told = await served.replies(6)
        served.writer.write(post(b"no"))
        told += await served.replies(1)
        served.writer.write(post(b"6"))
        return told + await served.replies(1)

    told = served(monkeypatch, ask, echo)
    refused = b"long refused at onceno"
    assert told == [b"short 1", b"short 2", b"long 3", b"long 4", b"long no", b"long 5", refused, b"short 6"]
    assert echo.taken == [b"1", b"2", b"6"]


def test_a_body_that_comes_in_parts_goes_the_usual_way(monkeypatch: pytest.MonkeyPatch):
    echo = Echo()

    async def ask(served: Served) -> list[bytes]:
        whole, told = post(b"abcdef"), []
        for cut in (10, len(whole) - 6, len(whole) - 3):
            served.writer.write(whole[:cut])
            await served.writer.drain()
            await asyncio.sleep(0.05)
            served.writer.write(whole[cut:])
            told += await served.replies(1)
        return told

    told = served(monkeypatch, ask, echo)
    assert told == [b"short abcdef", b"long abcdef", b"long abcdef"]  # the first was cut in its head


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (post(b"old", version=b"1.0"), b"long old"),
        (post(b"last", more=b"connection: close\r\n"), b"long last"),
        (post(b"asking", more=b"expect: 100-continue\r\n"), b"HTTP/1.1 100 Continue"),
        (post(b"", b"/short?x=1"), b"long "),
        (b"PUT" + post(b"put")[4:], b"long put"),
        (b"POST /short HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"short abc"),
    ],
    ids=["HTTP 1.0", "close", "expect", "query", "PUT", "chunked"],
)  # fmt: skip
def test_what_is_special_about_a_request_is_seen(monkeypatch: pytest.MonkeyPatch, request_: bytes, reply: bytes):
    async def ask(served: Served) -> bytes:
        served.writer.write(request_)
        head = await served.reader.readuntil(b"\r\n\r\n")
        if b"100 Continue" in head:
            return head.strip()
        length = int(head.partition(b"content-length: ")[2].split(b"\r")[0])
        return await served.reader.readexactly(length)

    assert served(monkeypatch, ask, Echo()) == reply


def test_a_head_is_as_uvicorn_would_write_it(monkeypatch: pytest.MonkeyPatch):
    async def ask(served: Served) -> list[tuple[bytes, bytes]]:
        served.writer.write(post(b"1") + post(b"1", b"/other"))
        return [await served.reply(), await served.reply()]

    (short, _), (long, _) = served(monkeypatch, ask, Echo())
    lines = [head.strip().split(b"\r\n") for head in (short, long)]
    assert lines[0][0] == lines[1][0] == b"HTTP/1.1 200 OK"
    names = [{line.split(b":")[0] for line in head[1:]} for head in lines]
    assert names[0] - {b"content-type"} == names[1] == {b"date", b"server", b"content-length"}


def test_what_is_no_http_is_told_after_those_before_it(monkeypatch: pytest.MonkeyPatch):
    async def ask(served: Served) -> tuple[bytes, bytes]:
        served.writer.write(post(b"1") + b"no http\r\n\r\n")
        _, body = await served.reply()
        return body, await served.reader.read()

    body, rest = served(monkeypatch, ask, Echo())
    assert body == b"short 1"
    assert rest.startswith(b"HTTP/1.1 400 ")


def test_a_request_that_takes_long_is_not_cut_off_as_idle(monkeypatch: pytest.MonkeyPatch):
    async def ask(served: Served) -> list[bytes]:
        whole = post(b"slow", b"/other")
        served.writer.write(post(b"1") + whole[:-1])
        await asyncio.sleep(0.3)
        served.writer.write(whole[-1:])
        return await served.replies(2)

    assert served(monkeypatch, ask, Echo(), timeout_keep_alive=0.1) == [b"short 1", b"long slow"]


def test_who_is_turned_away_for_good_is_told_and_let_go(monkeypatch: pytest.MonkeyPatch):
    async def ask(served: Served) -> tuple[bytes, bytes]:
        served.writer.write(post(b"turned away"))
        head, _ = await served.reply()
        return head, await served.reader.read()

    head, rest = served(monkeypatch, ask, Echo())
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"retry-after: 1\r\n" in head
    assert rest == b""


def test_an_idle_connection_is_closed_after_its_time(monkeypatch: pytest.MonkeyPatch):
    async def ask(served: Served) -> bytes:
        served.writer.write(post(b"1"))
        await served.replies(1)
        return await served.reader.read()

    assert served(monkeypatch, ask, Echo(), timeout_keep_alive=0.05) == b""


@pytest.mark.parametrize("how", ["half closed", "shut down"])
def test_who_waits_is_answered_before_the_connection_ends(monkeypatch: pytest.MonkeyPatch, how: str):
    echo = Echo()

    async def ask(served: Served) -> list[bytes]:
        if how == "half closed":
            served.writer.write(post(b"1"))
            served.writer.write_eof()
        else:
            # As if the server were told to leave in the turn in which the request came.
            def take(*arguments: Any) -> None:
                Echo.take(echo, *arguments)
                for connection in list(served.server.server_state.connections):
                    connection.shutdown()

            monkeypatch.setattr(echo, "take", take)
            served.writer.write(post(b"1"))
        told = await served.replies(1)
        return [*told, await served.reader.read()]

    assert served(monkeypatch, ask, echo) == [b"short 1", b""]


def test_what_says_close_to_all_says_it_to_those_answered_at_once(monkeypatch: pytest.MonkeyPatch):
    async def ask(served: Served) -> tuple[bytes, bytes]:
        state = served.server.server_state
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        served.writer.write(post(b"1"))
        head, _ = await served.reply()
        return head, await served.reader.read()

    head, rest = served(monkeypatch, ask, Echo())
    assert b"connection: close\r\n" in head
    assert rest == b""


def test_of_a_request_nothing_is_left_when_the_next_has_come(monkeypatch: pytest.MonkeyPatch):
    async def ask(served: Served) -> object:
        served.writer.write(post(b"no"))
        await served.replies(1)
        (connection,) = served.server.server_state.connections
        cycle = weakref.ref(connection.cycle)
        served.writer.write(post(b"1"))
        await served.replies(1)
        return cycle()

    assert served(monkeypatch, ask, Echo()) is None


@pytest.mark.parametrize("body", [b"1", b"no"], ids=["at once", "the usual way"])
def test_nothing_is_left_of_a_connection_that_is_reset(monkeypatch: pytest.MonkeyPatch, body: bytes):
    """The collector, which seldom has anything to do, is not needed for it."""

    async def ask(served: Served) -> list[object]:
        served.writer.write(post(body))
        await served.replies(1)
        (connection,) = served.server.server_state.connections
        held = [weakref.ref(connection), weakref.ref(connection.flow), weakref.ref(connection.cycle or connection)]
        del connection
        at_once = struct.pack("ii", 1, 0)
        served.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        gc.disable()
        try:
            served.writer.close()
            while served.server.server_state.connections:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)
            return [one() for one in held]
        finally:
            gc.enable()

    assert set(served(monkeypatch, ask, Echo(), timeout_keep_alive=600)) == {None}
