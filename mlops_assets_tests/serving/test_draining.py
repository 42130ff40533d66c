"""A worker that is told to leave lets go of each caller with its answer, and cuts none off."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop

from mlops_assets.serving.draining import CANDIDATE_VARIABLE, DRAIN_SIGNAL, Draining, NotWanted
from mlops_assets.serving.http_protocol import speak
from mlops_assets.serving.settings import ServingSettings
from mlops_assets.stores.home import Home
from mlops_assets.stores.servers import ServerStore, server_name
from mlops_assets_tests.serving.harness import Nobody

SERVER = 4711
REQUEST = b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n"


@dataclass
class Served:
    """A uvicorn server on a socket that its parent holds too, with an application that answers when it is let."""

    listening: socket.socket
    server: uvicorn.Server
    let_answer: asyncio.Event
    draining: Draining
    serving: "asyncio.Task[None]"

    async def caller(self) -> "Connection":
        return Connection(*await asyncio.open_connection(*self.listening.getsockname()))


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, path: bytes = b"") -> bytes:
        """The reply to a request."""
        self.writer.write(REQUEST % path)
        return await self.reply()

    async def reply(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        return head + await self.reader.readexactly(2)

    async def is_closed(self) -> bool:
        return await self.reader.read() == b""


@asynccontextmanager
async def served(home: Home) -> AsyncIterator[Served]:
    listening = socket.create_server(("127.0.0.1", 0))
    inherited = listening.dup()
    let_answer = asyncio.Event()
    found: list[Draining] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            draining = Draining.of_this_process(ServingSettings(home, server_pid=SERVER))
            assert draining is not None
            found.append(draining)
            await draining.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await draining.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["path"] == "/slow":
            await let_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=10))
    serving = asyncio.create_task(server.serve(sockets=[inherited]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield Served(listening, server, let_answer, found[0], serving)
    await serving
    listening.close()


@pytest.fixture(autouse=True)
def not_ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """uvicorn raises the signal that has ended it once more, for whoever took it before."""
    monkeypatch.setattr("uvicorn.config.HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    speak(Nobody())
    former = signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    yield
    signal.signal(signal.SIGTERM, former)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Awaitable[None]], None]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None) as runner:
        yield lambda what: runner.run(asyncio.wait_for(what, 30))


def test_each_caller_hears_it_with_its_answer_and_the_last_one_lets_the_worker_leave(run: Any, tmp_path: Path):
    async def go() -> None:
        async with served(Home(tmp_path)) as one:
            early, under_way = await one.caller(), await one.caller()
            assert b"connection: close" not in await early.ask()
            under_way.writer.write(REQUEST % b"slow")
            await early.ask()

            os.kill(os.getpid(), DRAIN_SIGNAL)
            while b"connection: close" not in (told := await early.ask()):
                pass

            assert told.endswith(b"ok")
            assert await early.is_closed()
            assert not one.serving.done()
            one.let_answer.set()
            assert b"connection: close" in await under_way.reply()
            assert await under_way.is_closed()
            await one.serving

    run(go())


def test_who_connects_meanwhile_is_left_to_the_others_on_the_socket(run: Any, tmp_path: Path):
    """Nothing is taken from the socket any more, and it stays open for those who hold it too."""

    async def go() -> None:
        async with served(Home(tmp_path)) as one:
            idle = await one.caller()
            await idle.ask()
            one.draining.tell()
            while one.server.servers[0].is_serving():
                await asyncio.sleep(0)
            late = await one.caller()
            late.writer.write(REQUEST % b"")
            one.listening.setblocking(False)
            accepted, _ = await asyncio.get_running_loop().sock_accept(one.listening)
            assert await asyncio.get_running_loop().sock_recv(accepted, 1000) == REQUEST % b""
            accepted.close()
            assert b"connection: close" in await idle.ask()

    run(go())


def test_idle_connections_are_closed_when_the_time_is_up_and_not_before(run: Any, tmp_path: Path):
    async def go() -> None:
        async with served(Home(tmp_path)) as one:
            idle, fresh = await one.caller(), await one.caller()
            await idle.ask()
            one.draining.tell()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(idle.reader.read(1), 0.3)
            assert not one.serving.done()
            one.draining.tell()
            assert await idle.is_closed()
            assert await fresh.is_closed()

    run(go())


def test_what_has_arrived_when_the_time_is_up_is_answered(run: Any, tmp_path: Path):
    """The bytes are in the socket and not read yet: to close then would reset the connection."""

    async def go() -> None:
        async with served(Home(tmp_path)) as one:
            ordinary, plain = await one.caller(), socket.create_connection(one.listening.getsockname())
            await ordinary.ask()
            plain.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(plain, REQUEST % b"")
            assert await loop.sock_recv(plain, 1000)
            one.draining.tell()
            while one.server.servers[0].is_serving():
                await asyncio.sleep(0)
            plain.send(REQUEST % b"")
            assert one.draining._close_idle() is False
            reply = b""
            while part := await loop.sock_recv(plain, 1000):
                reply += part
            assert b"connection: close" in reply
            assert reply.endswith(b"ok")
            plain.close()
            one.draining.tell()

    run(go())


def test_that_a_worker_accepts_is_noted_for_its_server(run: Any, tmp_path: Path):
    async def go() -> None:
        store = ServerStore(Home(tmp_path))
        async with served(Home(tmp_path)) as one:
            while not store.is_accepting(server_name(SERVER), os.getpid()):
                await asyncio.sleep(0.01)
            one.draining.tell()

    run(go())


def test_where_no_server_runs_there_is_nothing_to_drain(tmp_path: Path):
    assert Draining.of_this_process(ServingSettings(Home(tmp_path))) is None


def test_who_is_to_take_anothers_place_takes_no_request_before_it_is_wanted(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(CANDIDATE_VARIABLE, "1")
    store, name = ServerStore(Home(tmp_path)), server_name(SERVER)

    async def want_later() -> None:
        await asyncio.sleep(0.1)
        assert not store.is_accepting(name, os.getpid())
        store.want(name, os.getpid())

    async def go() -> None:
        wanting = asyncio.create_task(want_later())
        async with served(Home(tmp_path)) as one:
            assert wanting.done()
            assert (await (await one.caller()).ask()).endswith(b"ok")
            one.draining.tell()
            one.draining.tell()

    run(go())


def test_who_is_told_to_leave_before_never_takes_one(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(CANDIDATE_VARIABLE, "1")
    server = uvicorn.Server(uvicorn.Config("unused"))
    server.should_exit = True

    async def go() -> None:
        draining = Draining(server, ServerStore(Home(tmp_path)), server_name(SERVER))
        with pytest.raises(NotWanted):
            await draining.start()
        await draining.stop()

    run(go())
