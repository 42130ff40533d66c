"""What each serving worker has loaded: one small file per worker, replaced at every heartbeat."""

import os
import socket
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec

from mlops_assets.core.records import Role
from mlops_assets.core.service_counts import ServiceCounts
from mlops_assets.stores.files import PLAIN_NAME, TEMPORARY, make_folder, write_whole


class WorkerError(RuntimeError):
    """A worker's report that cannot be read."""


class BreakerReport(msgspec.Struct, frozen=True):
    """Whether a worker asks a version at the moment, how often it has ceased to, and why the last time."""

    state: Literal["closed", "open", "half-open"] = "closed"
    trips: int = 0
    reason: str | None = None


class LoadedVersion(msgspec.Struct, frozen=True):
    """A version that is loaded beside the champion, and how it has done in this worker in that role since the release.

    Attributes
    ----------
    counts
        Of what was put to it. In shadow the latency is the one that the request would have had with it.
    """

    version: int
    bundle: str
    role: Role
    counts: ServiceCounts = ServiceCounts()
    breaker: BreakerReport = BreakerReport()


class LoadedRelease(msgspec.Struct):
    """The release of a model that a worker answers from, its champion, and how it has done in this worker since.

    Attributes
    ----------
    counts
        Of what was put to the champion. A request that it failed counts as failed, also where another answered.
    challenger, standby, last_good
        Who is loaded beside it; None where the plan names nobody, its bundle could not be loaded (then it is in `refused`), or
        it is still being loaded: the champion answers before.
    fallback
        Of the constant in the champion's place; None where there is no constant.
    refused
        Why somebody whom the plan names is not loaded, by his place in it.
    """

    release: int
    version: int
    bundle: str
    loaded_at: datetime
    counts: ServiceCounts = ServiceCounts()
    breaker: BreakerReport = BreakerReport()
    challenger: LoadedVersion | None = None
    standby: LoadedVersion | None = None
    last_good: LoadedVersion | None = None
    fallback: LoadedVersion | None = None
    refused: dict[str, str] = {}


class WorkerState(msgspec.Struct):
    """One worker's report.

    Attributes
    ----------
    errors
        By model, why a release was not loaded: its champion is at fault, or the plan itself.
    refused
        Which release each of the `errors` is about; 0 where its plan could not be read. Missing in what older programs write.
    """

    worker: str
    pid: int
    host: str
    started_at: datetime
    heartbeat_at: datetime
    models: dict[str, LoadedRelease]
    errors: dict[str, str]
    refused: dict[str, int] = {}


class WorkerStore:
    """Reports of all workers under one folder. Times are wall clock, with a time zone."""

    def __init__(self, root: Path):
        self.root = root

    def report(self, state: WorkerState) -> None:
        """Replace the worker's report in one step. Does not wait for the disk: after a power loss no worker is left."""
        path = self._path(state.worker)
        make_folder(self.root)
        write_whole(path, msgspec.json.encode(state), durable=False)

    def remove(self, worker: str) -> None:
        """Forget a worker that stops; nothing happens when it is unknown."""
        self._path(worker).unlink(missing_ok=True)

    def live(self, now: datetime, max_age: timedelta) -> tuple[WorkerState, ...]:
        """The workers with a heartbeat at most `max_age` before `now` and, on this host, a running process, by name.

        Raises `WorkerError` for a report that cannot be read, since its worker may well be serving.
        """
        return tuple(state for state in self._all() if _is_live(state, now, max_age))

    def sweep(self, now: datetime, max_age: timedelta) -> int:
        """Forget the workers that are not live, and return how many; for a `max_age` well above the heartbeat's interval."""
        gone = [state for state in self._all() if not _is_live(state, now, max_age)]
        for state in gone:
            self.remove(state.worker)
        return len(gone)

    def _all(self) -> list[WorkerState]:
        if not self.root.is_dir():
            return []
        names = sorted(name for name in os.listdir(self.root) if not name.startswith(TEMPORARY))
        return [state for name in names if (state := _read(self.root / name)) is not None]

    def _path(self, worker: str) -> Path:
        if not PLAIN_NAME.fullmatch(worker):
            raise ValueError(f"{worker!r} cannot name a worker: expected letters, digits, '_', '-' and '.'")
        return self.root / f"{worker}.json"


def _read(path: Path) -> WorkerState | None:
    try:
        encoded = path.read_bytes()
    except FileNotFoundError:  # removed since the folder was listed
        return None
    if not encoded:  # what a power loss leaves of a file not yet on disk
        return None
    try:
        return msgspec.json.decode(encoded, type=WorkerState)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WorkerError(
            f"{path} is not a worker's report ({error}): restart that worker, or delete the file"
        ) from error


def _is_live(state: WorkerState, now: datetime, max_age: timedelta) -> bool:
    return now - state.heartbeat_at <= max_age and (state.host != socket.gethostname() or _is_running(state.pid))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but running
        return True
    return True
