"""The project's declarations pass Dagster's own commands; a mistake in one is refused with its place and what is allowed there."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops_assets_tests.end_to_end.dagster_dev import ROOT, environment, make_project

pytestmark = pytest.mark.slow
VALIDATE = ("dagster", "definitions", "validate")
CHECK_DEFS = ("dg", "check", "defs")
# Of several files with one component type, `dg check yaml` looks at one; given a folder it looks at that.
CHECK_YAML = ("dg", "check", "yaml", "mlops_assets/defs/flight_delay")

MISTAKES = {
    "unknown estimator": (
        "HistGradientBoostingClassifier",
        "HistGradientBoostingClasifier",
        "attributes.training.estimator",
        "did you mean 'HistGradientBoostingClassifier'",
    ),
    "missing label": (r"  label:\n(?:    .*\n)+", "", "attributes.label", "Field required"),
    "range upside down": (
        "minimum: -30, maximum: 120",
        "minimum: 130, maximum: 120",
        "attributes.features.8",
        "range upside down: minimum 130 is above maximum 120",
    ),
    "duplicate feature": (
        "name: dewp",
        "name: temp",
        "attributes.features.9.name",
        "duplicate feature 'temp': each name may be declared once",
    ),
    "unknown field": (
        "  task: binary\n",
        "  task: binary\n  colour: red\n",
        "attributes.colour",
        "allowed are name, owner, description, task",
    ),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a package of its own, whose declarations may be changed."""
    folder = make_project(tmp_path_factory.mktemp("declarations"))
    shutil.copytree(ROOT / "mlops_assets", folder / "mlops_assets")
    return folder


def run(copy: Path, command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """A program of the virtual environment on the copy; all that it prints is in `stdout`."""
    program, *arguments = command
    return subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments],
        cwd=copy,
        env={**environment(), "PYTHONPATH": str(copy), "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture
def declaration(copy: Path) -> Iterator[Path]:
    """The declaration of `flight_delay` in the copy, as it was when the test is over."""
    path = copy / "mlops_assets" / "defs" / "flight_delay" / "defs.yaml"
    before = path.read_text(encoding="utf-8")
    yield path
    path.write_text(before, encoding="utf-8")


@pytest.mark.parametrize("command", [VALIDATE, CHECK_DEFS, CHECK_YAML, ("dg", "check", "yaml")], ids=" ".join)
def test_the_project_passes(copy: Path, command: tuple[str, ...]):
    done = run(copy, command)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_with_its_place_and_what_is_allowed(copy: Path, declaration: Path, mistake: str):
    before, after, field, allowed = MISTAKES[mistake]
    changed, count = re.subn(before, after, declaration.read_text(encoding="utf-8"))
    assert count == 1
    declaration.write_text(changed, encoding="utf-8")

    done = run(copy, VALIDATE)

    assert done.returncode != 0
    assert re.search(rf"{re.escape(field)} at \S*/flight_delay/defs\.yaml:\d+", done.stdout), done.stdout
    assert allowed in done.stdout
    assert "Error while loading component flight_delay" in done.stdout


@pytest.mark.parametrize(
    ("mistake", "message"),
    [("missing label", "'label' is a required property"), ("unknown field", "'colour' was unexpected")],
)
def test_a_mistake_of_form_is_shown_in_its_line_by_dg_check_yaml(
    copy: Path, declaration: Path, mistake: str, message: str
):
    before, after, *_ = MISTAKES[mistake]
    declaration.write_text(re.sub(before, after, declaration.read_text(encoding="utf-8")), encoding="utf-8")

    done = run(copy, CHECK_YAML)

    assert done.returncode != 0
    assert re.search(r"/flight_delay/defs\.yaml:\d+ ", done.stdout), done.stdout
    assert message in done.stdout
