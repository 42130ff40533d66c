"""The scorecard in Dagster: its table, its numbers for the plots, and that it is made again by itself."""

from pathlib import Path

import dagster as dg
import pytest

from mlops_assets.assets.scorecard import KEY, scorecard_definitions
from mlops_assets.resources import make_resources
from mlops_assets_tests.operations.scorecard_deployment import deployed


@pytest.fixture
def metadata(tmp_path: Path) -> dict[str, dg.MetadataValue]:
    spec = deployed(tmp_path).spec
    definitions = scorecard_definitions(lambda: {spec.name: spec})
    result = dg.materialize(definitions.assets or [], resources=make_resources(str(tmp_path)))
    [made] = result.asset_materializations_for_node("scorecard")
    return dict(made.metadata)


def test_every_figure_that_is_known_can_be_plotted_for_each_model_and_for_all(
    metadata: dict[str, dg.MetadataValue],
) -> None:
    numbers = {name: one.value for name, one in metadata.items() if isinstance(one, dg.FloatMetadataValue)}
    assert numbers["availability"] == numbers["delay/availability"] == 0.75
    assert (numbers["releases_by_a_safe_strategy"], numbers["old/releases_by_a_safe_strategy"]) == (0.5, 1.0)
    assert numbers["delay/time_to_detect_event_time"] == 1.0
    assert "old/availability" not in numbers
    assert (metadata["targets_met"].value, metadata["targets_missed"].value) == (4, 3)


def test_the_table_says_what_the_command_line_says(metadata: dict[str, dg.MetadataValue]) -> None:
    table = metadata["scorecard"]
    assert isinstance(table, dg.MarkdownMetadataValue)
    assert (
        "| availability | 75 % | ≥ 99.95 % | no |  |  | 4 requests | 1 that were not valid do not count |"
        in table.value
    )
    assert [line for line in table.value.splitlines() if line.startswith("**")] == [
        "**all models**",
        "**delay**",
        "**old**",
    ]


def test_it_is_made_again_by_itself() -> None:
    definitions = dg.Definitions.merge(scorecard_definitions(), dg.Definitions(resources=make_resources()))
    schedule = definitions.resolve_schedule_def("scorecard_hourly")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert schedule.job_name == "scorecard_refresh"
    assert definitions.resolve_job_def("scorecard_refresh").asset_layer.executable_asset_keys == {KEY}
    assert definitions.resolve_assets_def(KEY).group_names_by_key == {KEY: "deployment"}
