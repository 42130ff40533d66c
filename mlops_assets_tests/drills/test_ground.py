"""The ground of a drill: put back at one path, with the declarations that it wants."""

import os
from pathlib import Path

from mlops_assets.drills.ground import overridden
from mlops_assets_tests.drills.small_ground import small_ground


def test_a_drill_begins_with_what_was_trained_and_its_own_declaration(tmp_path: Path):
    ground = small_ground(tmp_path / "drills")
    specs = ground.restore(("delay",), {"delay": {"response": {"service": {"latency_ms": 20}}}})
    assert specs["delay"].response.service.latency_ms == 20
    assert (ground.home.releases / "delay" / "current").is_file()
    assert (ground.project / "mlops_assets" / "definitions.py").is_file()
    assert (ground.project / "workspace.yaml").is_file()

    (ground.home.root / "left-over").touch()
    again = ground.restore(("delay",))
    assert again["delay"].response.service.latency_ms is None
    assert not (ground.home.root / "left-over").exists()


def test_its_environment_leads_to_it_and_to_nothing_else(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MLOPS_LEDGER_URL", "postgresql+psycopg://somewhere/else")
    ground = small_ground(tmp_path / "drills")
    before = dict(os.environ)
    with ground.environment():
        assert os.environ["MLOPS_HOME"] == str(ground.home.root)
        assert "MLOPS_LEDGER_URL" not in os.environ
    assert dict(os.environ) == before


def test_overrides_change_what_they_name_alone():
    declared = {
        "label": {"column": "late", "delay": "2d"},
        "features": [{"name": "temp", "minimum": -30}, {"name": "dewp"}],
        "gates": [{"metric": "mae", "at_most": 1}],
    }
    after = overridden(
        declared, {"label": {"delay": "7d"}, "features": {"temp": {"minimum": 18}}, "gates": [], "response": {}}
    )
    assert after == {
        "label": {"column": "late", "delay": "7d"},
        "features": [{"name": "temp", "minimum": 18}, {"name": "dewp"}],
        "gates": [],
        "response": {},
    }
