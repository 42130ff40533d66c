"""`mlops-assets batch`: what it says of a table, and of one that cannot be scored."""

from pathlib import Path

import pandas as pd
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from mlops_assets.cli.batch import add_batch_command
from mlops_assets.operations import models
from mlops_assets.stores.home import ENVIRONMENT_VARIABLE, Home
from mlops_assets_tests.serving.factory import release, small_model

app = typer.Typer()
add_batch_command(app)
app.callback()(lambda: None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(models, "read_declarations", lambda _folder=None: ({"delay": small_model().spec}, ()))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "home"))
    release(Home(tmp_path / "home"), small_model())
    frame = small_model().fresh.head(10)
    frame.assign(distance=[None, *frame["distance"][1:]]).to_parquet(tmp_path / "in.parquet")
    return tmp_path


def said(*words: object) -> Result:
    return CliRunner().invoke(app, ["batch", *map(str, words)])


def test_a_table_is_scored_and_what_was_left_out_is_told(folder: Path) -> None:
    result = said("delay", folder / "in.parquet", folder / "out.parquet")
    assert result.exit_code == 0, result.output
    assert "9 of 10 rows scored by delay v1, release 1 (champion)" in result.output
    assert f"1 rows have no answer: {folder / 'out.quarantine.parquet'}" in result.output
    assert "1  distance: expected a value" in result.output
    assert len(pd.read_parquet(folder / "out.parquet")) == 9


def test_what_cannot_be_scored_says_why(folder: Path) -> None:
    for words, reason in (
        (("nothing", folder / "in.parquet", folder / "out.parquet"), "no model 'nothing': declared are delay"),
        (("delay", folder / "gone.parquet", folder / "out.parquet"), "no such table"),
        (("delay", folder / "in.parquet", "/proc/nowhere/out.parquet"), "nowhere"),
    ):
        result = said(*words)
        assert result.exit_code == 1
        assert reason in result.output
