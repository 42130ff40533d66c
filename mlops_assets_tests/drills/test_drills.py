"""Two drills for real, on a small model: a service that is killed, and a log without room."""

from pathlib import Path

import psutil
import pytest

from mlops_assets.drills import crashes
from mlops_assets.drills.catalogue import DRILLS
from mlops_assets.drills.drill import Drill, run_drill
from mlops_assets.drills.report import DrillResult
from mlops_assets.drills.stage import Stage
from mlops_assets_tests.drills.small_ground import small_ground


def play(tmp_path: Path, drill: Drill) -> DrillResult:
    """Play it on a small model; no process of it, and no mount, may be left."""
    try:
        return run_drill(drill, small_ground(tmp_path / "drills"), lambda _: None)
    finally:
        left = [one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(one.info["cmdline"] or ())]
        assert left == []
        assert str(tmp_path) not in Path("/proc/mounts").read_text()


@pytest.mark.slow
def test_a_killed_service_comes_back_and_nothing_is_lost(tmp_path: Path):
    """A server that was killed left its workers behind; they held the address, and its successor waited for ever."""
    drill = Drill("crash-service", "", crashes.crash_service, model="delay", workers=2, daemon=False)
    result = play(tmp_path, drill)
    assert result.passed, result
    assert result.answered > 100
    assert None not in (result.detect_s, result.mitigate_s, result.resolve_s)


@pytest.mark.slow
@pytest.mark.parametrize("mounted", [True, False], ids=["where a file system may be mounted", "where not"])
def test_without_room_callers_are_refused_and_nothing_is_lost(tmp_path: Path, mounted: bool):
    prepare = crashes.small_log if mounted else None
    drill = Drill("full-disk", "", crashes.full_disk, model="delay", prepare=prepare, daemon=False)
    result = play(tmp_path, drill)
    assert result.passed, result
    assert result.refused > 20


@pytest.mark.slow
def test_an_interrupted_drill_leaves_nothing(tmp_path: Path):
    def interrupted(stage: Stage) -> None:
        raise KeyboardInterrupt

    drill = Drill("never", "", interrupted, model="delay", prepare=crashes.small_log, daemon=False)
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, drill)


def test_the_drills_are_those_that_are_told_of():
    text = (Path(__file__).parent.parent.parent / "docs" / "drills.md").read_text(encoding="utf-8")
    assert [name for name in DRILLS if f"`{name}`" not in text] == []
