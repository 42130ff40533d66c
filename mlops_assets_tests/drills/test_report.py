"""The table and the flat figures of drills."""

import io
from datetime import UTC, datetime

import msgspec
from rich.console import Console

from mlops_assets.drills.report import DrillResult, flat, table_of
from mlops_assets.drills.touched import Touched

HEALED = DrillResult("dead-feed", True, "", 61.234, 61.5, 140.0, 1, 900, 0, 0, 0, 2, 0, 0, 150.0)


def test_figures_are_flat_and_rounded():
    figures = flat([HEALED], datetime(2026, 1, 1, tzinfo=UTC))
    assert figures["dead-feed_healed"] is True
    assert (figures["dead-feed_detect_s"], figures["dead-feed_lost"], figures["dead-feed_refused"]) == (61.23, 0, 2)
    assert all(not isinstance(value, dict | list | tuple) for value in figures.values())


def test_a_drill_passes_when_it_heals_and_nothing_is_lost_or_wrong():
    assert HEALED.passed
    for change in ({"healed": False}, {"lost": 1}, {"wrong": 1}):
        assert not msgspec.structs.replace(HEALED, **change).passed
    assert not DrillResult.broken_off("dead-feed", "killed").passed


def test_the_table_has_a_line_for_each():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table_of([HEALED, DrillResult.broken_off("season", "killed")]))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[1][:6] == ["dead-feed", "yes", "61.2", "61.5", "140.0", "1"]
    assert lines[2][:3] == ["season", "no", "-"]


def test_the_share_of_touched_requests_is_reported_where_it_is_known():
    within = msgspec.structs.replace(HEALED, touched=Touched(2_310, 111, 111, 0.08))
    figures = flat([within], datetime(2026, 1, 1, tzinfo=UTC))
    assert (figures["dead-feed_touched_share"], figures["dead-feed_touched_of"]) == (0.0481, 2_310)
    assert within.passed
    assert not msgspec.structs.replace(HEALED, touched=Touched(2_310, 400, 400, 0.08)).passed
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table_of([within, HEALED]))
    text = console.export_text()
    assert "4.8 %" in text.splitlines()[1]
    assert "touched_share" not in " ".join(flat([HEALED], datetime(2026, 1, 1, tzinfo=UTC)))
