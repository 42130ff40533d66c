"""How runs are launched: as Dagster's default does, but a run whose server has been killed does not count as underway for ever.

`dagster.yaml` names the launcher; Dagster's own run monitoring asks it after every run that has been started.
"""

import json
import socket

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

CONNECT_S = 5.0


class WatchedRunLauncher(dg.DefaultRunLauncher):
    """Runs are processes of the code server, which itself reports one that crashes. Nobody reports those that died with the server.

    A run that was started by hand has no server and counts as alive; its job's `dagster/max_runtime` bounds it.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Is the code server there that the run is a process of?"""
        info = run.tags.get(GRPC_INFO_TAG)
        if info is None or _listens(json.loads(info)):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "the code server that ran it is gone")


def _listens(server: dict[str, str | int | bool]) -> bool:
    """Only what refuses or does not exist is gone; what cannot be found out is given the benefit of the doubt."""
    path, port = server.get("socket"), server.get("port")
    try:
        if path is not None:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(CONNECT_S)
                connection.connect(str(path))
        elif port is not None:
            socket.create_connection((str(server.get("host", "localhost")), int(port)), CONNECT_S).close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError:
        return True
    return True
