"""What an operator sees of a trial."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from mlops_assets.cli import app
from mlops_assets.core.ledger import Entry
from mlops_assets.operations import models
from mlops_assets_tests.operations.trial_examples import Trying


def test_each_look_is_shown_and_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    trying, run = Trying(tmp_path), CliRunner().invoke
    monkeypatch.setattr(models, "read_declarations", lambda _folder=None: ({"delay": trying.spec}, ()))
    assert "no version was ever on trial" in run(app, ["rollouts", "delay"]).output
    mistyped = run(app, ["rollouts", "dealy"])
    assert mistyped.exit_code == 1
    assert "no model 'dealy': declared are delay" in mistyped.output
    trying.start()
    trying.log(30)
    trying.advance()
    trying.log(800, champion=0.8, challenger=0.55)
    trying.until_rest()
    shown = run(app, ["rollouts", "delay"])
    assert shown.exit_code == 0, shown.output
    heading, _, *lines = shown.output.splitlines()
    assert heading == "delay/trial/2: version 2 beside version 1, shadow-then-canary, over (dismiss)"
    assert "quality 30: continue" in lines[0]
    assert "dismiss: quality worse" in lines[1]
    assert "done: dismiss, release 3" in lines[2]

    looked = trying.trial.looked
    assert looked is not None
    forged = msgspec.structs.replace(looked, step="promote")
    trying.stores.ledger.record(Entry("delay", trying.trial.id, forged, "user:mallory", datetime.now(UTC)))
    wrong = run(app, ["rollouts", "delay", "--all"])
    assert wrong.exit_code == 1
    assert "look 3: dismiss instead of promote" in wrong.output
