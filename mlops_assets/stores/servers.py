"""The servers that run on a home: what each reports of itself and of the restart of its workers, and orders for such a restart.

What a restart does is told in `serving/rolling.py`; what the workers have loaded, in `workers.py`.
"""

import os
import shutil
import socket
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import psutil

from mlops_assets.stores.files import PLAIN_NAME, TEMPORARY, make_folder, write_new, write_whole
from mlops_assets.stores.home import Home

ORDER_MAX_AGE = timedelta(seconds=10)
HEARTBEAT_MAX_AGE = timedelta(seconds=5)
READY_SECONDS = 60.0
DRAIN_SECONDS = 10.0


class RestartUnderWay(RuntimeError):
    """The workers of a server are being replaced already."""


class RestartOrder(msgspec.Struct, frozen=True):
    """A wish that a server replaces its workers.

    Attributes
    ----------
    ready_seconds
        A new worker that is not ready after so long is given up.
    drain_seconds
        So long an old worker leaves idle connections open, so that each can be told with its next answer.
    """

    id: str
    asked_at: datetime
    ready_seconds: float = READY_SECONDS
    drain_seconds: float = DRAIN_SECONDS


class Replacement(msgspec.Struct, frozen=True):
    """One worker in another's place, by their process ids.

    Attributes
    ----------
    ready_s
        From the start of the new one until it accepted requests, everything loaded.
    drained_s
        From then until the old one had left.
    killed
        Whether the old one had to be killed, because it did not leave in time.
    """

    old: int
    new: int
    ready_s: float
    drained_s: float
    killed: bool = False


class RestartReport(msgspec.Struct, frozen=True):
    """How a restart goes, or went.

    Attributes
    ----------
    workers
        How many were to be replaced.
    died
        Those, by process id, that ended by themselves before their turn; the server started others in their places.
    ended_at
        None while it is under way.
    failure
        Why workers were not replaced; None where all were, or it is under way.
    """

    order: str
    began_at: datetime
    workers: int
    replaced: tuple[Replacement, ...] = ()
    died: tuple[int, ...] = ()
    ended_at: datetime | None = None
    failure: str | None = None


class ServerState(msgspec.Struct, frozen=True):
    """One server's report: the process that starts the workers. `restart` is the last one, if there was any."""

    server: str
    pid: int
    host: str
    url: str
    started_at: datetime
    heartbeat_at: datetime
    restart: RestartReport | None = None


class ServerStore:
    """One folder per server. Times are wall clock, with a time zone."""

    def __init__(self, home: Home):
        self.root = home.root / "servers"

    def report(self, state: ServerState) -> None:
        """Replace the server's report in one step. Does not wait for the disk: after a power loss no server is left."""
        make_folder(self._folder(state.server))
        write_whole(self._folder(state.server) / "state.json", msgspec.json.encode(state), durable=False)

    def get(self, server: str) -> ServerState | None:
        """What a server has reported, also of one that is gone; None where there is no report."""
        try:
            return msgspec.json.decode((self._folder(server) / "state.json").read_bytes(), type=ServerState)
        except (FileNotFoundError, msgspec.DecodeError):  # what a power loss leaves of a file not yet on disk
            return None

    def live(self, now: datetime) -> tuple[ServerState, ...]:
        """The servers with a fresh heartbeat and, on this host, a running process, by name."""
        return tuple(state for state in self._all() if _is_live(state, now))

    def remove(self, server: str) -> None:
        """Forget a server that stops; nothing happens when it is unknown."""
        shutil.rmtree(self._folder(server), ignore_errors=True)

    def sweep(self, now: datetime) -> None:
        """Forget the servers that are not live."""
        for state in self._all():
            if not _is_live(state, now):
                self.remove(state.server)

    def order(self, server: str, order: RestartOrder) -> None:
        """Ask a server for a restart. Raises `RestartUnderWay` where one has been asked for that it has not yet begun."""
        temporary = self._folder(server) / f"{TEMPORARY}{order.id}"
        write_new(temporary, msgspec.json.encode(order), durable=False)
        try:
            # Unlike a rename, a link never takes the place of another's order.
            os.link(temporary, self._order(server))
        except FileExistsError:
            raise RestartUnderWay(f"a restart of {server} has just been asked for: wait until it has ended") from None
        finally:
            temporary.unlink()

    def ordered(self, server: str, now: datetime) -> RestartOrder | None:
        """The order that waits for a server. One that nobody can still be waiting for is forgotten."""
        order = self._waiting(server)
        if order is None or now - order.asked_at <= ORDER_MAX_AGE:
            return order
        self.settle_order(server, order.id)
        return None

    def settle_order(self, server: str, order: str) -> None:
        """Take this order away: it has been begun, as the server's report says by now, or is no longer wanted."""
        waiting = self._waiting(server)
        if waiting is not None and waiting.id == order:
            self._order(server).unlink(missing_ok=True)

    def want(self, server: str, pid: int) -> None:
        """Let a worker that was started to take another's place take requests."""
        make_folder(self._folder(server))
        self._wanted(server, pid).touch()

    def is_wanted(self, server: str, pid: int) -> bool:
        return self._wanted(server, pid).exists()

    def accepts(self, server: str, pid: int) -> None:
        """Note that a worker of a server takes requests."""
        make_folder(self._folder(server))
        self._accepting(server, pid).touch()

    def is_accepting(self, server: str, pid: int) -> bool:
        return self._accepting(server, pid).exists()

    def forget_worker(self, server: str, pid: int) -> None:
        self._wanted(server, pid).unlink(missing_ok=True)
        self._accepting(server, pid).unlink(missing_ok=True)

    def _all(self) -> list[ServerState]:
        names = sorted(os.listdir(self.root)) if self.root.is_dir() else []
        return [state for name in names if PLAIN_NAME.fullmatch(name) and (state := self.get(name)) is not None]

    def _waiting(self, server: str) -> RestartOrder | None:
        try:
            return msgspec.json.decode(self._order(server).read_bytes(), type=RestartOrder)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            self._order(server).unlink(missing_ok=True)
            return None

    def _order(self, server: str) -> Path:
        return self._folder(server) / "order.json"

    def _wanted(self, server: str, pid: int) -> Path:
        return self._folder(server) / f"wanted-{pid}"

    def _accepting(self, server: str, pid: int) -> Path:
        return self._folder(server) / f"accepting-{pid}"

    def _folder(self, server: str) -> Path:
        if not PLAIN_NAME.fullmatch(server):
            raise ValueError(f"{server!r} cannot name a server: expected letters, digits, '_', '-' and '.'")
        return self.root / server


def server_name(pid: int) -> str:
    """The name of the server on this host whose process has this id."""
    host = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in socket.gethostname())
    return f"{host.strip('-') or 'host'}-{pid}"


def _is_live(state: ServerState, now: datetime) -> bool:
    fresh = now - state.heartbeat_at <= HEARTBEAT_MAX_AGE
    return fresh and (state.host != socket.gethostname() or bool(psutil.pid_exists(state.pid)))
