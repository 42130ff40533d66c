"""Replies leave in one system call each, whole and in order; a connection that is closed has been written to."""

import asyncio
import socket
from typing import Any

import pytest
import uvicorn
import uvloop

from mlops_assets.serving.http_protocol import JoiningTransport, Nobody, speak


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
