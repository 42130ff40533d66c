"""How a worker comes and goes when another takes its place: it takes no request before it is wanted, and cuts nobody off.

A new one waits for its server's word, since all that listen on the shared socket get requests from it. An old one lets go of its
callers: each hears `Connection: close` with its next answer. The server says when (`rolling.py`), by a signal: the first one
begins it, the second one says that the time is up. It goes by what uvicorn keeps of its connections and costs no request
anything. What happens once the callers are gone is what happens at SIGTERM: requests still under way get uvicorn's time for a
graceful shutdown, then the log is sealed.
"""

import array
import asyncio
import fcntl
import logging
import os
import signal
import termios
from typing import Any, Self

import uvicorn

from mlops_assets.serving.http_protocol import AnsweringProtocol
from mlops_assets.serving.settings import ServingSettings
from mlops_assets.stores.servers import ServerStore, server_name

logger = logging.getLogger("bentoml.mlops_assets.draining")

DRAIN_SIGNAL = signal.SIGUSR1
CANDIDATE_VARIABLE = "MLOPS_CANDIDATE"  # set for a worker that is to take another's place
_LOOK_SECONDS = 0.05
_CLOSE = (b"connection", b"close")


class NotWanted(RuntimeError):
    """A worker that was to take another's place has been told to leave before that."""


class Draining:
    """Waits on the running event loop for the signal, then drains. To be started where uvicorn starts the application.

    Parameters
    ----------
    server
        Whose connections and listening sockets these are.
    servers, name
        Where to note that this worker accepts requests, and under which server; None for a server that does not ask.
    """

    def __init__(self, server: uvicorn.Server, servers: ServerStore, name: str | None):
        self._server = server
        self._servers = servers
        self._name = name
        self._told = asyncio.Event()
        self._time_is_up = False
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of_this_process(cls, settings: ServingSettings) -> Self | None:
        """That of the uvicorn server which runs this process; None where there is none, as in a test or a notebook."""
        # Nobody hands the server to its application. It is who takes the signals, before the application is started.
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if not isinstance(server, uvicorn.Server):
            return None
        name = None if settings.server_pid is None else server_name(settings.server_pid)
        return cls(server, ServerStore(settings.home), name)

    async def start(self) -> None:
        """Begin to wait. Returns when this worker may take requests; raises `NotWanted` when it is not to."""
        asyncio.get_running_loop().add_signal_handler(DRAIN_SIGNAL, self.tell)
        self._task = asyncio.create_task(self._run())
        if self._name is not None and os.environ.get(CANDIDATE_VARIABLE):
            await self._until_wanted(self._name)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def tell(self) -> None:
        """Begin to drain or, where that has begun, close what is idle and leave."""
        self._time_is_up = self._told.is_set()
        self._told.set()

    async def _run(self) -> None:
        while not self._server.started:
            await asyncio.sleep(_LOOK_SECONDS)
        self._note_acceptance()
        await self._told.wait()
        logger.info("Accepting no more; %d connections are told so with their next answer", len(self._connections))
        for listening in self._server.servers:
            # This process's hold of it. The socket is the server's, and what waits in it is accepted by the others.
            listening.close()
        self._say_close()
        while self._connections and not (self._time_is_up and self._close_idle()):
            await asyncio.sleep(_LOOK_SECONDS)
        signal.raise_signal(signal.SIGTERM)

    async def _until_wanted(self, server: str) -> None:
        while not self._servers.is_wanted(server, os.getpid()):
            if self._server.should_exit:
                raise NotWanted("told to leave before this worker took another's place")
            await asyncio.sleep(_LOOK_SECONDS)

    def _note_acceptance(self) -> None:
        if self._name is not None:
            try:
                self._servers.accepts(self._name, os.getpid())
            except OSError:
                logger.exception("That this worker takes requests could not be noted: it cannot take another's place")

    @property
    def _connections(self) -> set[Any]:
        return self._server.server_state.connections

    def _say_close(self) -> None:
        """Put it into each reply that begins from now on; uvicorn closes the connection after such a reply."""
        # Those that were taken at once are answered before it is said; whoever is asked sees to all of them.
        answering = (connection for connection in self._connections if isinstance(connection, AnsweringProtocol))
        if (one := next(answering, None)) is not None:
            one.end_turn()
        # The one is what uvicorn makes the other from, once a second, together with the time.
        self._server.config.encoded_headers.append(_CLOSE)
        state = self._server.server_state
        state.default_headers = [*state.default_headers, _CLOSE]
        for connection in list(self._connections):
            # Requests under way have got their headers. The last one of a connection says it: those before are answered too.
            pipeline = getattr(connection, "pipeline", None)
            last = pipeline[0][0] if pipeline else connection.cycle
            if last is not None and not last.response_started:
                last.keep_alive = False

    def _close_idle(self) -> bool:
        """Close the connections on which nothing is under way. False where one has just been sent something."""
        told = [connection for connection in list(self._connections) if _has_something_to_read(connection)]
        for connection in list(self._connections):
            if connection not in told:
                connection.shutdown()
        return not told


def _has_something_to_read(connection: Any) -> bool:
    """Whether bytes have arrived that the event loop has not yet read: to close now would throw a request away."""
    transport = connection.transport
    socket = None if transport is None or transport.is_closing() else transport.get_extra_info("socket")
    if socket is None or socket.fileno() < 0:
        return False
    waiting = array.array("i", [0])
    fcntl.ioctl(socket.fileno(), termios.FIONREAD, waiting)
    return waiting[0] > 0
