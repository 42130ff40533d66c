"""What an operator types to break things."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_assets.cli import app, drill
from mlops_assets.drills.catalogue import DRILLS
from mlops_assets.drills.ground import Ground
from mlops_assets.drills.report import DrillResult

FINE = DrillResult("dead-feed", True, "", 61.2, 61.5, 140.0, 1, 900, 0, 0, 0, 2, 0, 0, 150.0)
LOST = DrillResult("season", True, "", None, None, None, None, 900, 3, 0, 0, 2, 0, 0, 150.0, ("x: not in the log",))


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> dict[str, DrillResult]:
    """Drills that are not played but have these results; all others heal."""
    given: dict[str, DrillResult] = {}

    def play(name: str, ground: Ground) -> DrillResult:
        return given.get(name, FINE)

    monkeypatch.setattr(drill, "_play", play)
    monkeypatch.setattr(drill, "_play_apart", play)
    monkeypatch.setattr(drill, "_ENDING", ())
    monkeypatch.setattr(Ground, "train", lambda *_, **__: None)
    return given


def test_left_without_a_name_it_lists_them():
    shown = CliRunner().invoke(app, ["drill"]).stdout
    assert [line.split()[0] for line in shown.splitlines()] == list(DRILLS)


def test_an_unknown_one_is_refused():
    assert CliRunner().invoke(app, ["drill", "earthquake"]).exit_code == 2


def test_figures_of_one_are_laid_beside_those_of_others(tmp_path: Path, results: dict[str, DrillResult]):
    file = tmp_path / "results" / "drills.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"season_healed": True, "dead-feed_detect_s": 1.0}))
    done = CliRunner().invoke(app, ["drill", "dead-feed", "--json", str(file), "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    figures = json.loads(file.read_text())
    assert (figures["season_healed"], figures["dead-feed_detect_s"]) == (True, 61.2)


def test_one_that_loses_an_answer_ends_with_an_error_and_says_which(tmp_path: Path, results: dict[str, DrillResult]):
    results["season"] = LOST
    file = tmp_path / "drills.json"
    file.write_text(json.dumps({"earthquake_healed": True}))
    done = CliRunner().invoke(app, ["drill", "all", "--json", str(file), "--folder", str(tmp_path)])
    assert done.exit_code == 1
    assert "season: x: not in the log" in done.output
    figures = json.loads(file.read_text())
    assert figures["season_lost"] == 3
    assert "earthquake_healed" not in figures, "what is no drill any more does not stay"
