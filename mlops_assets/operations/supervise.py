"""Running the service on this machine: started, watched, started again when it dies, ended with all its processes.

What the service answers is the business of `serving`, which is run as a program here and never imported.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType

import httpx

from mlops_assets.operations.bento import SOURCE
from mlops_assets.operations.client import CERTIFICATE_VARIABLE, pinned
from mlops_assets.stores.files import make_folder, write_whole
from mlops_assets.stores.home import ENVIRONMENT_VARIABLE, Home
from mlops_assets.stores.workers import WorkerState, WorkerStore

logger = logging.getLogger(__name__)

HEARTBEAT_MAX_AGE = timedelta(seconds=5)
GRACE_SECONDS = 15.0


class ServiceFailed(RuntimeError):
    """The service does not start, or dies again and again."""


class NotLive(RuntimeError):
    """A worker refused a release, or not every worker had it in time."""


class RefusedByWorker(NotLive):
    """A worker cannot load a release; to wait longer is of no use."""


@dataclass(frozen=True)
class ServiceOptions:
    """How a service is run.

    Attributes
    ----------
    target
        Folder of the service's source, or of a built Bento.
    max_quick_deaths
        So many deaths in a row, each within `quick_seconds` of its start, end the supervision.
    environment
        Added to this process's own for the service.
    public_url
        Where others reach it, such as from another container, when that is not host and port.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    target: Path = SOURCE
    quick_seconds: float = 30.0
    max_quick_deaths: int = 5
    first_back_off_seconds: float = 0.5
    environment: dict[str, str] = field(default_factory=dict)
    public_url: str = ""

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://{self.host}:{self.port}"

    @property
    def certificate(self) -> str | None:
        """The file of the certificate with which the service answers HTTPS; None for HTTP."""
        return {**os.environ, **self.environment}.get(CERTIFICATE_VARIABLE) or None

    @property
    def address(self) -> str:
        """Where others on this home reach the service: the address given, else its own."""
        return self.public_url or self.url


def serve(
    home: Home,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    target: Path = SOURCE,
    public_url: str = "",
) -> int:
    """Run the service until SIGTERM or SIGINT, starting it again when it dies.

    Returns
    -------
    int
        0 after a signal.

    Raises
    ------
    ServiceFailed
        When its address is taken, or it dies again and again soon after its start.
    """
    options = ServiceOptions(host=host, port=port, workers=workers, target=target, public_url=public_url)
    stopping = threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        logger.info("Got %s: stopping the service", signal.Signals(number).name)
        stopping.set()

    former = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        supervise(home, options, stopping)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    return 0


def supervise(home: Home, options: ServiceOptions, stopping: threading.Event) -> None:
    """Keep the service running until `stopping` is set, then end it; meanwhile the home says where it answers.

    Raises
    ------
    ServiceFailed
        When its address is taken, or it dies again and again.
    """
    _require_free(options)
    make_folder(home.root)
    write_whole(home.service_address, options.address.encode(), durable=False)
    try:
        _keep_running(home, options, stopping)
    finally:
        home.service_address.unlink(missing_ok=True)


def _keep_running(home: Home, options: ServiceOptions, stopping: threading.Event) -> None:
    quick_deaths = 0
    while not stopping.is_set():
        started = time.monotonic()
        with _process_group(home, options) as service:
            while service.poll() is None and not stopping.wait(0.1):
                pass
        if stopping.is_set():
            return
        if service.returncode == os.EX_CONFIG:
            raise ServiceFailed(f"the service on {options.url} refuses its settings: its output above says why")
        lived = time.monotonic() - started
        quick_deaths = quick_deaths + 1 if lived < options.quick_seconds else 0
        if quick_deaths >= options.max_quick_deaths:
            raise ServiceFailed(
                f"the service on {options.url} died {quick_deaths} times in a row, the last time after {lived:.1f} s "
                f"({_ending(service.returncode)}): its output above says why"
            )
        pause = options.first_back_off_seconds * 2 ** max(quick_deaths - 1, 0)
        logger.warning(
            "The service %s after %.1f s; starting it again in %.1f s", _ending(service.returncode), lived, pause
        )
        stopping.wait(pause)


@contextmanager
def running_service(
    home: Home,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    workers: int = 1,
    target: Path = SOURCE,
    ready_timeout: float = 120.0,
    environment: dict[str, str] | None = None,
) -> Iterator[str]:
    """A supervised service for the length of a block: yields its base URL when all its workers are ready.

    No process is left behind when the block ends, however it does.

    Parameters
    ----------
    port
        A free one is found when it is None.

    Raises
    ------
    ServiceFailed
        When it is not ready in time, or dies again and again.
    """
    options = ServiceOptions(
        host=host, port=port or free_port(host), workers=workers, target=target, environment=environment or {}
    )
    stopping = threading.Event()
    failures: list[ServiceFailed] = []

    def run() -> None:
        try:
            supervise(home, options, stopping)
        except ServiceFailed as error:
            failures.append(error)

    supervisor = threading.Thread(target=run, name="service-supervisor", daemon=True)
    supervisor.start()
    try:
        _wait_until_ready(home, options, ready_timeout, failures)
        yield options.url
    finally:
        stopping.set()
        supervisor.join()


def wait_until_live(home: Home, model: str, release: int, timeout: float = 30.0) -> int:
    """Wait until every live worker answers from this release of the model, or a later one.

    Returns
    -------
    int
        How many workers do; 0 when no service runs on this home.

    Raises
    ------
    RefusedByWorker
        When a worker refuses the release, with its reason.
    NotLive
        When the time is up, naming the workers that lag behind.
    """
    workers = WorkerStore(home.workers)
    deadline = time.monotonic() + timeout
    while True:
        live = workers.live(datetime.now(UTC), HEARTBEAT_MAX_AGE)
        behind = [worker for worker in live if _release_of(worker, model) < release]
        if not behind:
            return len(live)
        for worker in behind:
            # What a worker still says of an earlier release, or of a plan that it could not read (0), tells nothing of this one.
            # Older workers give no number at all.
            if model in worker.errors and worker.refused.get(model, release) >= release:
                raise RefusedByWorker(
                    f"worker {worker.worker} refuses release {release} of {model} and stays on release "
                    f"{_release_of(worker, model)}: {worker.errors[model]}"
                )
        if time.monotonic() >= deadline:
            names = ", ".join(f"{worker.worker} (release {_release_of(worker, model)})" for worker in behind)
            raise NotLive(f"after {timeout:g} s release {release} of {model} is not loaded by {names}")
        time.sleep(0.1)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _require_free(options: ServiceOptions) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except OSError as error:
            raise ServiceFailed(
                f"cannot listen on {options.host}:{options.port} ({error.strerror}): choose another host or port"
            ) from error


@contextmanager
def _process_group(home: Home, options: ServiceOptions) -> Iterator[subprocess.Popen[bytes]]:
    """The service in a session of its own, which is gone with all its processes when the block ends."""
    command = [sys.executable, "-m", "mlops_assets.serving.launch", str(options.target)]
    service = subprocess.Popen(
        [*command, "--host", options.host, "--port", str(options.port)],
        env={**os.environ, **_environment(home, options)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield service
    finally:
        _end_group(service)


def _environment(home: Home, options: ServiceOptions) -> dict[str, str]:
    # A BentoML home of its own for each server: they share, and wipe, the folder of metrics in it.
    return {
        ENVIRONMENT_VARIABLE: str(home.root),
        "MLOPS_WORKERS": str(options.workers),
        "BENTOML_HOME": str(home.bentoml / "servers" / str(options.port)),
        "BENTOML_DO_NOT_TRACK": "True",
        "OMP_NUM_THREADS": "1",
        **options.environment,
    }


def _end_group(service: subprocess.Popen[bytes]) -> None:
    """Ask the service to stop, wait for it, and kill whatever of its group is left."""
    if service.poll() is None:
        service.terminate()
        with suppress(subprocess.TimeoutExpired):
            service.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(service.pid, signal.SIGKILL)
    service.wait()


def _wait_until_ready(home: Home, options: ServiceOptions, timeout: float, failures: list[ServiceFailed]) -> None:
    """Wait until the service says so, and as many workers as were asked for have reported."""
    workers = WorkerStore(home.workers)
    deadline = time.monotonic() + timeout
    verify = pinned(Path(options.certificate)) if options.certificate else True
    with httpx.Client(base_url=options.url, timeout=2.0, trust_env=False, verify=verify) as client:
        while not (_is_ready(client) and len(workers.live(datetime.now(UTC), HEARTBEAT_MAX_AGE)) >= options.workers):
            if failures:
                raise failures[0]
            if time.monotonic() >= deadline:
                raise ServiceFailed(
                    f"the service on {options.url} is not ready after {timeout:g} s: its output above says why"
                )
            time.sleep(0.05)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _release_of(worker: WorkerState, model: str) -> int:
    return worker.models[model].release if model in worker.models else 0


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"exited with {code}"
