"""What all benchmarks share: fair conditions, time and memory of a piece of work in a process of its own, tables, figures.

What is measured is in the benchmarks; the data they measure it on in `data.py`.
"""

import gc
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

# Everybody computes on one core, and nobody calls home. Set before numpy, pyarrow or a peer is imported, and inherited.
QUIET: Final = {
    "OMP_NUM_THREADS": "1",  # also the size of Arrow's pool
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "NML_DISABLE_USAGE_LOGGING": "1",
    "DO_NOT_TRACK": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONWARNINGS": "ignore",
}
os.environ.update(QUIET)

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results"
SEED: Final = 20130101
MB: Final = 2**20

Work = Callable[[], Any]
Figures = Mapping[str, float | int | None]


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs."""

    minimum: float
    median: float


@dataclass(frozen=True)
class Measured:
    """A piece of work done several times in a fresh process: seconds of each run, memory, and what the last run answered.

    `extra_mb` is the peak of resident memory during the work above what the process held when it was ready to begin (imports
    and preparation done); `peak_mb` the peak as a whole.
    """

    seconds: tuple[float, ...]
    extra_mb: float
    peak_mb: float
    answer: Any

    @property
    def timing(self) -> Timing:
        return Timing(min(self.seconds), statistics.median(self.seconds))


def timed(work: Work, repeats: int = 5) -> Timing:
    """Time a piece of work in this process; garbage of the run before is collected first."""
    seconds = list(_runs(work, repeats))
    return Timing(min(seconds), statistics.median(seconds))


def measured(prepare: str, repeats: int = 5, **options: Any) -> Measured:
    """Measure a piece of work in a fresh process.

    Parameters
    ----------
    prepare
        ``module:function`` of a function that gets everything ready, imports included, and returns the work: a function
        without parameters, whose answer goes through JSON.
    repeats
        How often the work is done; the first run, which may import or compile still more, is timed like the others.
    options
        Keyword arguments of `prepare`, as JSON has them.
    """
    command = [sys.executable, "-m", "benchmarks.common", prepare, str(repeats), json.dumps(options)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    # a peer may print too: ours is the last line
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; the first column is text, the others are figures."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        shown.add_column(column, justify="right" if place else "left")
    for row in rows:
        shown.add_row(*(figure(cell) for cell in row))
    # a pipe or a log has no width of its own
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(shown)


def figure(value: object) -> str:
    """A figure to three digits, as people write it; text stays as it is, and what is not there is a dash."""
    if value is None or value != value:
        return "–"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def save(name: str, figures: Figures) -> Path:
    """Write the figures of a benchmark as one flat object, to four digits, in `benchmarks/results/<name>.json`."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    plain = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in figures.items()}
    # NaN is no JSON
    written = {key: None if value != value else value for key, value in plain.items()}
    path.write_text(json.dumps(written, indent=2) + "\n")
    return path


# ---- in the fresh process


def _runs(work: Work, repeats: int) -> Iterator[float]:
    for _ in range(repeats):
        gc.collect()
        start = time.perf_counter()
        work()
        yield time.perf_counter() - start


def _main(prepare: str, repeats: str, options: str) -> None:
    if hasattr(os, "sched_setaffinity"):  # whatever starts threads has one core for them
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    module, function = prepare.split(":")
    work = getattr(importlib.import_module(module), function)(**json.loads(options))
    answers: list[Any] = [None]

    def remembered() -> None:
        answers[0] = work()

    gc.collect()
    before = _memory_mb(reset=True)
    seconds = tuple(_runs(remembered, int(repeats)))
    peak = _memory_mb(reset=False)
    sys.stdout.write("\n" + json.dumps(asdict(Measured(seconds, peak - before, peak, answers[0]))) + "\n")


def _memory_mb(reset: bool) -> float:
    """Peak of resident memory; after a reset, what is resident now.

    Linux counts `ru_maxrss` from the parent's memory on, since that survives `exec`, and never down: a benchmark that holds its
    data would hide what its child needs. The kernel's own mark of the process can be reset.
    """
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024 / MB
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


if __name__ == "__main__":
    _main(*sys.argv[1:])
