"""What `mlops-assets report` says and writes, also when it is asked for what is not there."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_assets.cli import app
from mlops_assets.operations import evidently_report, models
from mlops_assets.operations.report import verdicts_of
from mlops_assets_tests.operations.reported import day, judged_home
from mlops_assets_tests.operations.watched import Watched, watched_spec


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return judged_home(tmp_path_factory.mktemp("home"), days=3)


@pytest.fixture
def home(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLOPS_HOME", str(watched.stores.home.root))
    monkeypatch.setattr(models, "read_declarations", lambda _folder=None: ({"delay": watched_spec()}, ()))
    return watched.stores.home.root


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["report", *arguments], terminal_width=200)
    return result.exit_code, " ".join((result.output + result.stderr).split())


def test_the_newest_window_is_written_and_its_verdict_printed(home: Path, watched: Watched):
    code, output = run("delay")
    page = home / "reports" / "delay" / f"{day(2)}.html"
    assert code == 0
    data, model = verdicts_of(watched.spec, watched.stores, day(2))
    assert f"delay {day(2)}: data {data}, model {model}" in output
    assert str(page) in output
    assert page.is_file()


def test_a_window_may_be_named(home: Path):
    code, output = run("delay", "--window", day(0))
    assert code == 0
    assert f"{day(0)}.html" in output


def test_the_page_is_opened_when_asked_for(home: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", opened.append)
    assert run("delay", "--open")[0] == 0
    assert opened == [(home / "reports" / "delay" / f"{day(2)}.html").as_uri()]


def test_an_unknown_model_is_refused_with_the_known_ones(home: Path):
    code, output = run("dalay")
    assert code == 1
    assert "no model 'dalay': declared are delay" in output


def test_an_unknown_window_is_refused_with_the_known_ones(home: Path):
    code, output = run("delay", "--window", "2031-01-01")
    assert code == 1
    assert f"no verdict on window '2031-01-01': there are 3 from {day(0)} to {day(2)}" in output


def test_without_any_verdict_it_says_what_to_materialise(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    code, output = run("delay")
    assert code == 1
    assert "materialise delay/data_health and delay/model_health first" in output


def test_the_full_report_names_the_extra_that_it_needs(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evidently_report, "find_spec", lambda name: None)
    code, output = run("delay", "--full")
    assert code == 1
    assert "pip install 'mlops-assets[report]'" in output
