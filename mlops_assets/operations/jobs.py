"""Running a job of the project in a Dagster process of its own, on the instance that the UI shows."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlops_assets.operations.progress import Progress, read_progress

REPOSITORY = {
    ".dagster/repository": "__repository__@mlops_assets"
}  # the label by which the UI lists a run under its job
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
_LINES_OF_A_FAILURE = 40


class JobFailed(RuntimeError):
    """A run failed; the message holds the end of what it printed."""


def run_job(
    project: Path,
    job: str,
    *,
    show: Callable[[Progress], None],
    config: dict[str, Any] | None = None,
    windows: tuple[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    """Execute a job and report what happens as it happens.

    Parameters
    ----------
    project
        Folder of the project, in which `dagster.yaml` says where runs are kept.
    windows
        First and last partition, both included, of a job over partitioned assets: one run does them all.
    tags
        Of the run, besides those that are its own.

    Raises
    ------
    JobFailed
        When the run does not end well.
    """
    own = dict(REPOSITORY) if windows is None else {**REPOSITORY, RANGE_START: windows[0], RANGE_END: windows[1]}
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "mlops_assets.definitions", "-j", job]
    lines: list[str] = []
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config or {}, file)
        file.flush()
        process = subprocess.Popen(
            [*command, "-c", file.name, "--tags", json.dumps({**(tags or {}), **own})],
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if (progress := read_progress(lines[-1])) is not None:
                show(progress)
        process.wait()
    if process.returncode != 0:
        raise JobFailed(f"{job} failed:\n" + "\n".join(lines[-_LINES_OF_A_FAILURE:]))
