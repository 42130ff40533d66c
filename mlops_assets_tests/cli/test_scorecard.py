"""What an operator sees of the scorecard."""

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from mlops_assets.cli import app
from mlops_assets.core.scorecard_values import Scorecard
from mlops_assets.operations import models
from mlops_assets_tests.operations.scorecard_deployment import deployed


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    spec = deployed(tmp_path).spec
    monkeypatch.setattr(models, "read_declarations", lambda _folder=None: ({spec.name: spec}, ()))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["scorecard", *arguments])


def test_one_table_for_all_models_together_and_each() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert len(lines) == 1 + 3 * 9
    assert {line[:10].strip() for line in lines[1:]} == {"all models", "delay", "old"}
    said = "all models availability 75 % ≥ 99.95 % no - - 4 requests 1 that were not valid do not count"
    assert " ".join(lines[1].split()) == said
    assert "no data" in run("--model", "old").output


def test_one_model_and_a_period() -> None:
    lines = run("--model", "delay", "--since", "2024-03-01", "--until", "2024-03-02T00:00:00").output.splitlines()
    assert len(lines) == 1 + 9 + 1
    assert lines[1].split()[:4] == ["delay", "availability", "100", "%"]
    assert lines[-1] == "2 incidents, decisions or releases without an event time are in no period and left out"


def test_every_figure_in_a_file(tmp_path: Path) -> None:
    assert run("--json", str(tmp_path / "card.json")).exit_code == 0
    card = msgspec.json.decode((tmp_path / "card.json").read_bytes(), type=Scorecard)
    assert [one.model for one in card.models] == ["delay", "old"]
    assert card.models[0].figures[2].worst_incident == "i-1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "dely"), "nothing is known of dely: there are delay, old"),
        (("--since", "2024-03-02", "--until", "2024-03-01"), "before it begins"),
        (("--json", "/nowhere/card.json"), "cannot write /nowhere/card.json: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_told(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert said in result.stderr


def test_a_ledger_out_of_reach_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLOPS_LEDGER_URL", f"sqlite:///{tmp_path}/file/ledger.db")
    result = run()
    assert result.exit_code == 1
    assert "set MLOPS_LEDGER_URL" in result.stderr
