"""Runs one BentoML server and replaces a dead worker at once: `python -m mlops_assets.serving.launch <target> --port 8000`.

BentoML looks after its workers every ten seconds and has no setting for it; here it is told to look as soon as one has died.
It also ends when the process that started it does, so that no server outlives its supervisor; and its workers end when it does
(`runtime.py`), so that none keeps the address from the next server.
"""

import argparse
import os
import threading
import time
import traceback

from _bentoml_impl.loader import load  # type: ignore[import-untyped]
from _bentoml_impl.server import serve_http  # type: ignore[import-untyped]
from bentoml._internal.log import configure_server_logging
from bentoml._internal.utils.circus import Server

from mlops_assets.serving.settings import SERVER_VARIABLE

LOOK_SECONDS = 0.1
GRACE_SECONDS = 10


def main() -> None:
    """Read the command line and serve until told to stop."""
    parser = argparse.ArgumentParser(description="Serve a BentoML service and replace dead workers at once")
    parser.add_argument("target", help="folder of a service or of a built Bento")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--keep-alive", type=int, default=75, help="seconds an idle connection stays open")
    arguments = parser.parse_args()
    os.environ[SERVER_VARIABLE] = str(os.getpid())
    threading.excepthook = _give_up
    configure_server_logging()  # type: ignore[no-untyped-call]
    load(arguments.target, working_dir=arguments.target).inject_config()
    server = serve_http(
        arguments.target,
        working_dir=arguments.target,
        host=arguments.host,
        port=arguments.port,
        timeout_keep_alive=arguments.keep_alive,
        timeout_graceful_shutdown=GRACE_SECONDS,
        threaded=True,
    )
    watch(server)


def watch(server: Server) -> None:
    """Replace workers as they die, until the server has ended or this process has lost its parent."""
    arbiter = server.arbiter
    parent = os.getppid()
    while not server.running:
        time.sleep(LOOK_SECONDS)
    while server.running:
        if os.getppid() != parent:
            server.stop()
        elif _has_dead_child():
            arbiter.loop.add_callback(arbiter.manage_watchers)
        time.sleep(LOOK_SECONDS)


def _give_up(failure: threading.ExceptHookArgs) -> None:
    """BentoML's supervisor runs in a thread. Where that fails, as when the address is taken, nothing will ever be served."""
    traceback.print_exception(failure.exc_type, failure.exc_value, failure.exc_traceback)
    os._exit(1)


def _has_dead_child() -> bool:
    """Whether a child has ended; it is left for BentoML's supervisor to reap."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


if __name__ == "__main__":
    main()
