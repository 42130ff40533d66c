"""The traffic sensor as a state machine, on a real instance with real runs; between any two steps the program may start anew."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from mlops_assets.assets.live_traffic import live_traffic_asset
from mlops_assets.assets.partitions import partitions_of
from mlops_assets.operations.live_traffic import live_windows
from mlops_assets.operations.watching import HEARTBEAT, read_heartbeat
from mlops_assets.resources import StoresResource, make_resources
from mlops_assets.sensors.traffic import MONITORING_TAG, traffic_sensor
from mlops_assets.stores.files import make_folder
from mlops_assets.stores.prediction_log import LogError
from mlops_assets_tests.operations.traffic_examples import Traffic, window


class Deployment:
    """One model's live traffic and a health asset that can be made to fail, with an instance that survives restarts."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.traffic = Traffic(folder)
        self.instance = instance
        self.broken = folder / "broken"
        self.cursor: str | None = None
        self.start()

    def start(self) -> None:
        """Load all definitions afresh, as a new process would."""
        spec, broken = self.traffic.spec, self.broken

        @dg.asset(
            key=[spec.name, "data_health"],
            deps=[dg.AssetKey([spec.name, "live_traffic"])],
            partitions_def=partitions_of(spec),
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def data_health() -> None:
            if broken.exists():
                raise dg.Failure("the health asset is broken", allow_retries=False)

        assets = [live_traffic_asset(spec), data_health]
        job = dg.define_asset_job("delay_monitoring", assets)
        self.definitions = dg.Definitions(
            assets=assets,
            jobs=[job],
            sensors=[traffic_sensor(spec)],
            resources=make_resources(str(self.traffic.stores.home.root)),
        )
        self.sensor = self.definitions.resolve_sensor_def("delay_traffic")
        self.cursor = None

    def tick(self) -> list[dg.RunRequest] | str:
        """What the sensor asks for, or why it asks for nothing."""
        with dg.build_sensor_context(
            self.instance,
            cursor=self.cursor,
            definitions=self.definitions,
            sensor_name="delay_traffic",
            resources={"stores": StoresResource(home=str(self.traffic.stores.home.root))},
        ) as context:
            data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        return list(data.run_requests or []) or (data.skip_message or "")

    def run(self, request: dg.RunRequest) -> bool:
        """Execute a requested run; says whether it succeeded."""
        job = self.definitions.resolve_job_def("delay_monitoring")
        tags = {**request.tags, "dagster/run_key": request.run_key or ""}
        return job.execute_in_process(instance=self.instance, tags=tags, raise_on_error=False).success

    def begin(self, request: dg.RunRequest) -> str:
        """Start a requested run and come to no end."""
        job = self.definitions.resolve_job_def("delay_monitoring")
        return self.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=dict(request.tags)).run_id

    @property
    def materialised(self) -> list[str]:
        """Windows in the order in which their health was materialised."""
        records = self.instance.fetch_materializations(
            dg.AssetKey(["delay", "data_health"]), limit=100, ascending=True
        ).records
        return [record.partition_key or "" for record in records]


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    home = tmp_path / "home"
    make_folder(home)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Deployment(home, instance)


def ranges(asked: list[dg.RunRequest] | str) -> list[tuple[str, str]]:
    assert isinstance(asked, list), asked
    return [
        (one.tags["dagster/asset_partition_range_start"], one.tags["dagster/asset_partition_range_end"])
        for one in asked
    ]


def only(asked: list[dg.RunRequest] | str) -> dg.RunRequest:
    assert isinstance(asked, list), asked
    [one] = asked
    return one


def test_it_is_on_by_default_and_looks_often() -> None:
    sensor = traffic_sensor(Traffic.declared())
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 10


@pytest.mark.parametrize("restarting", [False, True])
def test_the_life_of_a_monitor(deployment: Deployment, restarting: bool) -> None:
    """Nothing new, new, asked again before it ran, in flight, failed, tried again, succeeded, a late label, nothing new."""
    traffic = deployment.traffic

    def tick() -> list[dg.RunRequest] | str:
        if restarting:
            deployment.start()
        return deployment.tick()

    assert tick() == "nothing new"

    traffic.segment(traffic.prediction(1), traffic.prediction(30))
    first = only(tick())
    assert first.tags[MONITORING_TAG] == "delay"
    assert ranges([first]) == [(window(0), window(1))]
    assert only(tick()).run_key == first.run_key, "a request that was lost is made again, and no other"

    waiting = deployment.begin(first)
    assert tick() == f"run {waiting} is not over yet"
    deployment.instance.delete_run(waiting)

    deployment.broken.touch()
    assert not deployment.run(first)
    second = only(tick())
    assert ranges([second]) == ranges([first])
    assert second.run_key != first.run_key
    assert second.run_key == f"{(first.run_key or '')[:-1]}2"

    deployment.broken.unlink()
    assert deployment.run(second)
    assert tick() == "nothing new"
    assert deployment.materialised == [window(0), window(1)]

    traffic.segment(traffic.label(1))
    late = only(tick())
    assert ranges([late]) == [(window(0), window(0))]
    assert deployment.run(late)
    assert tick() == "nothing new"
    assert deployment.materialised == [window(0), window(1), window(0)]
    assert traffic.labels() == {"r1": 1.0}


def test_windows_apart_are_runs_apart_and_those_between_are_left(deployment: Deployment) -> None:
    traffic = deployment.traffic
    traffic.segment(*[traffic.prediction(24 * day) for day in range(6)])
    assert deployment.run(only(deployment.tick()))
    traffic.segment(traffic.label(0), traffic.label(24), traffic.label(96))
    asked = deployment.tick()
    assert ranges(asked) == [(window(0), window(1)), (window(4), window(4))]
    assert all(deployment.run(one) for one in asked if isinstance(one, dg.RunRequest))
    assert deployment.tick() == "nothing new"


def test_it_gives_up_after_three_failures_until_something_new_comes(deployment: Deployment) -> None:
    traffic = deployment.traffic
    traffic.segment(traffic.prediction(1))
    deployment.broken.touch()
    keys = []
    for _ in range(3):
        request = only(deployment.tick())
        keys.append(request.run_key)
        assert not deployment.run(request)
    assert len(set(keys)) == 3
    said = deployment.tick()
    assert said == (
        "nothing new; given up after 3 failed runs: 2024-03-01 to 2024-03-01. Run the job by hand when it is mended"
    )
    beat = read_heartbeat(traffic.spec, traffic.stores)
    assert beat is not None
    assert beat.given_up == (window(0),)

    traffic.segment(traffic.prediction(30))
    assert ranges(deployment.tick()) == [(window(1), window(1))], "what failed does not hold up what is new"
    traffic.segment(traffic.label(1))
    assert ranges(deployment.tick()) == [(window(0), window(0)), (window(1), window(1))]


def test_a_run_by_hand_counts(deployment: Deployment) -> None:
    traffic = deployment.traffic
    traffic.segment(traffic.prediction(1), traffic.prediction(30))
    asked = only(deployment.tick())
    by_hand = {name: tag for name, tag in asked.tags.items() if name.startswith("dagster/")}
    deployment.broken.touch()
    assert not deployment.run(dg.RunRequest(tags=by_hand))
    assert ranges(deployment.tick()) == [(window(0), window(1))], "what it left undone is asked for"
    deployment.broken.unlink()
    assert deployment.run(dg.RunRequest(tags=by_hand))
    assert deployment.tick() == "nothing new"


def test_traffic_that_comes_during_a_run_is_asked_for_after_it(deployment: Deployment) -> None:
    traffic = deployment.traffic
    traffic.segment(traffic.prediction(1))
    first = only(deployment.tick())
    traffic.segment(traffic.prediction(2))
    assert deployment.run(first), "the run takes what is there by then"
    assert deployment.tick() == "nothing new"
    assert len(traffic.read()) == 2
    traffic.segment(traffic.prediction(3))
    again = only(deployment.tick())
    assert again.run_key != first.run_key


def test_a_lost_instance_asks_for_nothing_that_is_done(deployment: Deployment, tmp_path: Path) -> None:
    traffic = deployment.traffic
    traffic.segment(traffic.prediction(1))
    assert deployment.run(only(deployment.tick()))
    with dg.DagsterInstance.ephemeral() as fresh:
        deployment.instance = fresh
        assert deployment.tick() == "nothing new"


def test_every_look_leaves_a_heartbeat_and_what_waits_does_so_since_it_began(deployment: Deployment) -> None:
    traffic = deployment.traffic

    def beat() -> dict[str, object]:
        one = read_heartbeat(traffic.spec, traffic.stores)
        assert one is not None
        return dict(one.waiting)

    deployment.tick()
    assert beat() == {}
    traffic.segment(traffic.prediction(1))
    asked = only(deployment.tick())
    waiting = beat()
    assert list(waiting) == [window(0)]
    traffic.segment(traffic.prediction(30))
    deployment.tick()
    assert list(beat()) == [window(0), window(1)]
    assert beat()[window(0)] == waiting[window(0)]
    deployment.run(asked)
    deployment.tick()
    assert list(beat()) == [window(1)]
    assert list(live_windows(traffic.spec, traffic.stores)) == [window(0)]


def test_a_look_that_fails_says_so_and_fails(deployment: Deployment) -> None:
    traffic = deployment.traffic
    path = traffic.segment(traffic.prediction(1))
    path.write_bytes(path.read_bytes()[:8] + b"\x63" + path.read_bytes()[9:])
    with pytest.raises(LogError, match="has format 99"):
        deployment.tick()
    beat = read_heartbeat(traffic.spec, traffic.stores)
    assert beat is not None
    assert beat.error is not None
    assert "has format 99" in beat.error
    path.unlink()
    assert deployment.tick() == "nothing new"
    assert traffic.stores.lake.has("delay", HEARTBEAT)
    mended = read_heartbeat(traffic.spec, traffic.stores)
    assert mended is not None
    assert mended.error is None
