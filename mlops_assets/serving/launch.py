"""Runs one BentoML server and replaces a dead worker at once: `python -m mlops_assets.serving.launch <target> --port 8000`.

BentoML looks after its workers every ten seconds and has no setting for it; here it is told to look as soon as one has died.
It also ends when the process that started it does, so that no server outlives its supervisor; and its workers end when it does
(`runtime.py`), so that none keeps the address from the next server. At an order in the home (`stores/servers.py`), or SIGHUP, it
replaces its workers one by one without a dropped request (`rolling.py`), where BentoML itself would cut their connections.

Settings that cannot be served with end it with code 78 (`EX_CONFIG`), from which a supervisor sees that to try again is of no use.
"""

import argparse
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
import traceback
import uuid
from datetime import UTC, datetime
from types import FrameType
from typing import NoReturn

import msgspec
from _bentoml_impl.loader import load  # type: ignore[import-untyped]
from _bentoml_impl.server import serve_http  # type: ignore[import-untyped]
from bentoml._internal.log import configure_server_logging
from bentoml._internal.utils.circus import Server

from mlops_assets.serving.door import OpenToTheNetwork, require_keys_or_loopback
from mlops_assets.serving.json_logs import log_as_json
from mlops_assets.serving.rolling import RollingRestart
from mlops_assets.serving.settings import CERTIFICATE_VARIABLE, KEY_VARIABLE, SERVER_VARIABLE, ServingSettings
from mlops_assets.stores.home import Home
from mlops_assets.stores.servers import RestartOrder, ServerState, ServerStore, server_name

logger = logging.getLogger("bentoml.mlops_assets.launch")

LOOK_SECONDS = 0.1
REPORT_SECONDS = 1.0
GRACE_SECONDS = 10


def main() -> None:
    """Read the command line and serve until told to stop."""
    parser = argparse.ArgumentParser(description="Serve a BentoML service and replace dead workers at once")
    parser.add_argument("target", help="folder of a service or of a built Bento")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--keep-alive", type=int, default=75, help="seconds an idle connection stays open")
    arguments = parser.parse_args()
    configure_server_logging()  # type: ignore[no-untyped-call]
    try:
        settings = ServingSettings.from_environment()
        if settings.log_format == "json":
            log_as_json()
        require_servable(settings, arguments.host)
    except (ValueError, OpenToTheNetwork) as error:
        _refuse(error)
    os.environ[SERVER_VARIABLE] = str(os.getpid())
    threading.excepthook = _give_up
    load(arguments.target, working_dir=arguments.target).inject_config()
    server = serve_http(
        arguments.target,
        working_dir=arguments.target,
        host=arguments.host,
        port=arguments.port,
        timeout_keep_alive=arguments.keep_alive,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=str(settings.tls_certificate) if settings.tls_certificate else None,
        ssl_keyfile=str(settings.tls_key) if settings.tls_key else None,
        threaded=True,
    )
    watch(server, settings.home)


def require_servable(settings: ServingSettings, host: str) -> None:
    """Refuse what would leave the door open, or TLS that nobody could speak.

    Raises
    ------
    OpenToTheNetwork
        For an address that is not loopback while keys are off.
    ValueError
        For a host that is no IP address, or a certificate and key that do not go together.
    """
    require_keys_or_loopback(host, settings.auth)
    if settings.tls_certificate is None or settings.tls_key is None:
        if settings.auth == "keys":
            logger.warning("Keys are on and TLS is off: let nothing but a proxy that speaks TLS reach %s", host)
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:
        names = f"{CERTIFICATE_VARIABLE} and {KEY_VARIABLE}"
        raise ValueError(
            f"{names} do not hold a certificate and its key: {settings.tls_certificate}, {settings.tls_key} ({error})"
        ) from error
    # Workers start in another folder than the one that the settings may be relative to.
    os.environ[CERTIFICATE_VARIABLE], os.environ[KEY_VARIABLE] = str(settings.tls_certificate), str(settings.tls_key)


def watch(server: Server, home: Home) -> None:
    """Replace workers as they die or as is ordered, until the server has ended or this process has lost its parent."""
    arbiter = server.arbiter
    parent = os.getppid()
    while not server.running:
        time.sleep(LOOK_SECONDS)
    desk = _OrderDesk(server, home)
    try:
        while server.running:
            if os.getppid() != parent:
                server.stop()
            elif _has_dead_child():
                arbiter.loop.add_callback(arbiter.manage_watchers)
            desk.look()
            time.sleep(LOOK_SECONDS)
    finally:
        desk.close()


class _OrderDesk:
    """Takes orders for a restart of the workers, and reports how it goes."""

    def __init__(self, server: Server, home: Home):
        self._name = server_name(os.getpid())
        self._store = ServerStore(home)
        self._rolling = RollingRestart(server.arbiter, home, self._name, GRACE_SECONDS)
        now = datetime.now(UTC)
        self._state = ServerState(self._name, os.getpid(), socket.gethostname(), server.url, now, now)
        self._report_at = 0.0
        self._hung_up = False
        self._store.sweep(now)
        self._report()
        signal.signal(signal.SIGHUP, self._hang_up)

    def look(self) -> None:
        """Begin what has been ordered, and report what has changed."""
        try:
            if not self._rolling.is_under_way and (order := self._ordered()) is not None:
                logger.info("Replacing the workers one by one")
                self._rolling.begin(order)
                self._report()
                # In this order: whoever finds no order any more finds the restart that has been begun.
                self._store.settle_order(self._name, order.id)
            elif self._rolling.report is not self._state.restart or time.monotonic() >= self._report_at:
                self._report()
        except OSError:
            logger.exception("Orders for a restart could not be read or reported on; trying again")

    def close(self) -> None:
        self._rolling.end_loose()
        self._store.remove(self._name)

    def _ordered(self) -> RestartOrder | None:
        hung_up, self._hung_up = self._hung_up, False
        if hung_up:
            return RestartOrder(uuid.uuid4().hex, datetime.now(UTC))
        order = self._store.ordered(self._name, datetime.now(UTC))
        begun = self._rolling.report
        return None if order is None or (begun is not None and begun.order == order.id) else order

    def _report(self) -> None:
        self._state = msgspec.structs.replace(self._state, heartbeat_at=datetime.now(UTC), restart=self._rolling.report)
        self._store.report(self._state)
        self._report_at = time.monotonic() + REPORT_SECONDS

    def _hang_up(self, _number: int, _frame: FrameType | None) -> None:
        self._hung_up = True


def _give_up(failure: threading.ExceptHookArgs) -> None:
    """BentoML's supervisor runs in a thread. Where that fails, as when the address is taken, nothing will ever be served."""
    traceback.print_exception(failure.exc_type, failure.exc_value, failure.exc_traceback)
    os._exit(1)


def _refuse(error: Exception) -> NoReturn:
    logger.error("The service does not start: %s", error)
    sys.exit(os.EX_CONFIG)


def _has_dead_child() -> bool:
    """Whether a child has ended; it is left for BentoML's supervisor to reap."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


if __name__ == "__main__":
    main()
