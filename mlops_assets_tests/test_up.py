"""Programs that are run together end together, whatever asks them to."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mlops_assets_tests.waiting import wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def start(folder: Path, commands: dict[str, list[str]]) -> "subprocess.Popen[bytes]":
    program = (
        "from pathlib import Path\nfrom mlops_assets.cli.main import run_together\n"
        f"print(run_together({commands!r}, Path({str(folder)!r}), 'running'), flush=True)"
    )
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)


def family_of(runner: "subprocess.Popen[bytes]", size: int) -> list[psutil.Process]:
    wait_until(lambda: len(psutil.Process(runner.pid).children(recursive=True)) == size, timeout_s=60)
    return psutil.Process(runner.pid).children(recursive=True)


@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT, signal.SIGINT]],
    ids=lambda numbers: "+".join(number.name for number in numbers),
)
def test_a_signal_ends_all(tmp_path: Path, numbers: list[signal.Signals]):
    """A closed terminal, or Ctrl-C pressed twice, left the programs running."""
    slow_to_end = (
        "import signal, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), exit())); time.sleep(600)"
    )
    runner = start(tmp_path, {"one": [sys.executable, "-c", slow_to_end], "another": SLEEP})
    assert runner.stdout is not None
    assert runner.stdout.readline() == b"running\n"
    family = family_of(runner, 2)
    for number in numbers:
        runner.send_signal(number)
    assert runner.wait(60) == 0
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    assert runner.stdout.read() == b"None\n"


def test_one_that_ends_by_itself_is_named_and_the_others_end_too(tmp_path: Path):
    (tmp_path / "go").touch()
    waiting = "import pathlib, time\nwhile pathlib.Path('go').exists(): time.sleep(0.05)"
    runner = start(tmp_path, {"one": SLEEP, "another": [sys.executable, "-c", waiting]})
    family = family_of(runner, 2)
    (tmp_path / "go").unlink()
    output, _ = runner.communicate(timeout=60)
    assert output == b"running\nanother\n"
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
