"""The demonstration: both models through Dagster, then a month of real traffic over HTTP, held against its labels.

Runs Dagster as a separate process, as an operator would; knows nothing of its insides.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.client import PredictionClient
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.traffic import Quality, Traffic, assess, live_rows, send

TOLERANCE = 1e-9
SINGLE_ROWS = 300


class DemoFailed(RuntimeError):
    """A step of the demonstration did not do what it must; the message says which and why."""


@dataclass(frozen=True)
class Outcome:
    """One model's traffic and how good its answers were."""

    spec: ModelSpec
    traffic: Traffic
    quality: Quality
    sent_s: float


def run_lifecycle(spec: ModelSpec, project: Path, on_line: Callable[[str], None], as_of: datetime | None = None) -> float:
    """Run `<model>_lifecycle` in a Dagster process of its own, on the instance that the UI shows; returns the seconds it took.

    Raises
    ------
    DemoFailed
        When the run fails, with the last lines it printed.
    """
    command = [sys.executable, "-m", "mlops_assets.run_job", f"{spec.name}_lifecycle"]
    if as_of is not None:
        command += ["--as-of", as_of.isoformat()]
    started = time.perf_counter()
    lines: list[str] = []
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            on_line(line.rstrip())
    if process.returncode != 0:
        raise DemoFailed(f"{spec.name}_lifecycle failed:\n" + "\n".join(lines[-25:]))
    return time.perf_counter() - started


def send_month(
    specs: tuple[ModelSpec, ...], stores: Stores, client: PredictionClient, until: datetime, progress: Callable[[ModelSpec, int], None]
) -> list[Outcome]:
    """Send every real event from going live until `until` to the service, hour by hour, with its labels; judge the answers.

    Raises
    ------
    DemoFailed
        When an answer differs from the registered pipeline's by more than 1e-9.
    """
    outcomes = []
    for spec in specs:
        rows = live_rows(spec, None, spec.live_from, until)
        started = time.perf_counter()
        traffic = send(spec, client, rows, timedelta(hours=1), SINGLE_ROWS, lambda sent, spec=spec: progress(spec, sent))
        sent_s = time.perf_counter() - started
        quality = assess(spec, stores, traffic)
        if not quality.max_difference <= TOLERANCE:
            raise DemoFailed(f"{spec.name}: an HTTP answer differs from the registered pipeline's by {quality.max_difference:.3g}")
        outcomes.append(Outcome(spec, traffic, quality, sent_s))
    return outcomes
