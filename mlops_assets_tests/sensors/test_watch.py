"""The watch reports a change of the monitor's state, once, as a check of `live_traffic`."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from mlops_assets.core.monitoring.watch import Heartbeat
from mlops_assets.operations.watching import HEARTBEAT
from mlops_assets.resources import StoresResource
from mlops_assets.sensors.watch import watch_sensor
from mlops_assets_tests.operations.traffic_examples import Traffic


class Watched:
    """A monitor whose heartbeat a test sets, and the reports that the watch has made."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.traffic = Traffic(folder)
        self.instance = instance
        self.cursor: str | None = None

    def beat(self, age: timedelta, error: str | None = None) -> None:
        self.traffic.stores.lake.write_document("delay", HEARTBEAT, Heartbeat(datetime.now(UTC) - age, error))

    def tick(self) -> dg.AssetCheckEvaluation | str:
        """What is reported, or why nothing is."""
        resources = {"stores": StoresResource(home=str(self.traffic.stores.home.root))}
        with dg.build_sensor_context(self.instance, cursor=self.cursor, resources=resources) as context:
            data = watch_sensor(self.traffic.spec).evaluate_tick(context)
        self.cursor = data.cursor or self.cursor
        if not data.asset_events:
            return data.skip_message or ""
        [event] = data.asset_events
        assert isinstance(event, dg.AssetCheckEvaluation)
        return event


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Watched(tmp_path, instance)


def reported(watched: Watched) -> tuple[bool, dg.AssetCheckSeverity]:
    event = watched.tick()
    assert isinstance(event, dg.AssetCheckEvaluation), event
    assert (event.asset_key, event.check_name) == (dg.AssetKey(["delay", "live_traffic"]), "monitor_is_alive")
    return event.passed, event.severity


def test_it_is_on_by_default() -> None:
    sensor = watch_sensor(Traffic.declared())
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING


def test_a_change_is_reported_once(watched: Watched) -> None:
    seconds, minutes = timedelta(seconds=1), timedelta(minutes=1)
    watched.beat(seconds)
    assert reported(watched)[0] is True
    assert watched.tick() == "the monitor looks at what comes in"
    watched.beat(10 * minutes)
    assert reported(watched) == (False, dg.AssetCheckSeverity.ERROR)
    watched.beat(11 * minutes)
    assert str(watched.tick()).startswith("the monitor last looked at ")
    watched.beat(seconds, "LogError: disk full")
    event = watched.tick()
    assert isinstance(event, dg.AssetCheckEvaluation)
    assert event.description == "the monitor fails: LogError: disk full"
    watched.beat(seconds)
    assert reported(watched)[0] is True


def test_traffic_that_nobody_reads_is_reported_without_any_heartbeat(watched: Watched) -> None:
    path = watched.traffic.segment(watched.traffic.prediction(1))
    assert reported(watched)[0] is True
    path.rename(path.with_name(f"20240301T000000000000Z-{path.name.partition('Z-')[2]}"))
    assert reported(watched) == (False, dg.AssetCheckSeverity.WARN)


def test_a_lost_cursor_reports_again(watched: Watched) -> None:
    watched.beat(timedelta(seconds=1))
    assert reported(watched)[0] is True
    watched.cursor = None
    assert reported(watched)[0] is True


def test_what_a_run_by_hand_has_found_does_not_stand_for_ever(watched: Watched) -> None:
    """The check of a run made while the monitor was off stayed failed when the monitor was on again, until new traffic came."""
    watched.beat(timedelta(seconds=1))
    assert reported(watched)[0] is True
    watched.instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey(["delay", "live_traffic"])))
    assert reported(watched)[0] is True
    assert watched.tick() == "the monitor looks at what comes in"
