"""A service answers over HTTP, and the daemon of a bare `dagster dev` turns its log into verdicts by itself, killed or not."""

import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from mlops_assets.core.contract import raw_rows
from mlops_assets.core.monitoring.watch import MAX_SILENCE
from mlops_assets.core.rollout import Release
from mlops_assets.core.scoring.scorer import CompiledScorer, GoldenRows
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.client import PredictionClient
from mlops_assets.operations.live_traffic import live_windows, read_window, stale_windows
from mlops_assets.operations.models import declared_models
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import running_service
from mlops_assets.operations.traffic import ask as ask_service
from mlops_assets.operations.traffic import labels_of, post_labels
from mlops_assets.operations.watching import HEARTBEAT, read_heartbeat
from mlops_assets.stores.home import Home
from mlops_assets.stores.traffic import TrafficStore
from mlops_assets_tests.end_to_end.dagster_dev import ROOT, DagsterDev, ask, environment, make_project
from mlops_assets_tests.operations.watched import LIVE_FROM, ROWS_A_DAY, watched_fit, watched_rows
from mlops_assets_tests.serving.factory import publish
from mlops_assets_tests.waiting import wait_until

pytestmark = pytest.mark.slow
DELAY_YAML = """\
type: mlops_assets.components.ModelLifecycle
attributes:
  name: delay
  owner: team:tests
  task: binary
  source: {table: unused.parquet}
  entity_key: flight
  event_time: at
  live_from: 2024-03-01T00:00:00Z
  label: {column: outcome, delay: 2d, classes: [0, 1]}
  features:
    - {name: temp, type: number, unit: °F}
    - {name: wind, type: number, unit: mph}
    - {name: carrier, type: category}
    - {name: night, type: boolean}
  training: {estimator: sklearn.linear_model.LogisticRegression, holdout: 20d}
  monitoring: {window: day, until: 2024-03-20T00:00:00Z}
"""
MONITORS = ("live_traffic", "data_health", "model_health")
RUNS = """{ runsOrError(filter: {pipelineName: "delay_monitoring"}) { ... on Runs { results { runId status } } } }"""
MATERIALISED = """{ assetNodes(group: {groupName: "delay", repositoryName: "__repository__",
    repositoryLocationName: "mlops_assets"}) { assetKey { path } assetMaterializations(limit: 500) { partition
    metadataEntries { label ... on TextMetadataEntry { text } } } } }"""
UNDERWAY = {"NOT_STARTED", "QUEUED", "STARTING", "STARTED", "CANCELING"}
A_LOOK_AND_A_RUN_S = 300
FOUND_DEAD_S = 180


@dataclass
class Deployment:
    """A project with a released model and a running service. `sent` holds the prediction ids of each window."""

    project: Path
    stores: Stores
    spec: ModelSpec
    client: PredictionClient
    sent: dict[str, list[str]] = field(default_factory=dict)

    def send(self, first_day: int, days: int) -> dict[str, pd.DataFrame]:
        """Ask for all rows of these days of March, the first of which is 0; returns the labels that may be posted, by window."""
        rows = watched_rows("binary", LIVE_FROM + timedelta(days=first_day), days, seed=100 + first_day)
        ids = ask_service(self.spec, self.client, rows, timedelta(hours=6)).prediction_ids
        labels = labels_of(self.spec, rows, ids)
        window_of = dict(zip(ids, rows["at"].dt.strftime("%Y-%m-%d"), strict=True))
        for one, window in window_of.items():
            self.sent.setdefault(window, []).append(one)
        return dict(list(labels.groupby(labels["id"].map(window_of))))

    def post(self, labels: pd.DataFrame) -> None:
        post_labels(self.spec, self.client, labels)

    def in_tables(self) -> dict[str, list[str]]:
        """The prediction ids in the table of each window."""
        return {window: sorted(self.table(window)["id"]) for window in live_windows(self.spec, self.stores)}

    def table(self, window: str) -> pd.DataFrame:
        return read_window(self.spec, self.stores, window, ["id", "label"])

    def is_settled(self, url: str) -> bool:
        """Is everything that was sent in tables, and no run underway?"""
        done = self.in_tables() == {window: sorted(ids) for window, ids in self.sent.items()}
        return done and not stale_windows(self.spec, self.stores) and not UNDERWAY & set(runs(url).values())

    def status(self) -> subprocess.CompletedProcess[str]:
        """What `mlops-assets status` says in the project."""
        return subprocess.run(
            [sys.executable, "-m", "mlops_assets.cli", "status"],
            cwd=self.project,
            env={**environment(), "COLUMNS": "400"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def released(home: Path) -> Stores:
    """A home in which the small model is released, with golden rows, without which no service loads it."""
    fit, stores = watched_fit(), Stores(Home(home))
    scorer = CompiledScorer.from_files(fit.files["scorer.npz"], fit.files["scorer.json"])
    rows = raw_rows(fit.manifest.features, watched_rows("binary", LIVE_FROM, 1, seed=99).head(5))
    files = {**fit.files, "golden.json": GoldenRows.make(scorer, rows).to_json()}
    publish(stores.home, "delay", Release(fit.manifest.version, stores.bundles.put(fit.manifest, files)))
    return stores


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    project = make_project(tmp_path_factory.mktemp("project"))
    package = project / "mlops_assets"  # programs started in the project find this copy, which declares one small model
    shutil.copytree(ROOT / "mlops_assets", package, ignore=shutil.ignore_patterns("defs", "__pycache__"))
    (package / "defs" / "delay").mkdir(parents=True)
    (package / "defs" / "delay" / "defs.yaml").write_text(DELAY_YAML)
    stores = released(project / ".mlops")
    spec = declared_models(package / "defs")["delay"]
    with (
        running_service(stores.home, environment={"MLOPS_LOG_SEGMENT_SECONDS": "2"}) as url,
        PredictionClient(url) as client,
    ):
        yield Deployment(project, stores, spec, client)


@contextmanager
def running_dagster(project: Path) -> Iterator[DagsterDev]:
    started = DagsterDev.start(project)
    try:
        yield started
    finally:
        started.end()


def runs(url: str) -> dict[str, str]:
    """The status of each monitoring run."""
    return {one["runId"]: one["status"] for one in ask(url, RUNS)["runsOrError"]["results"]}


def runs_on_disk(project: Path) -> dict[str, str]:
    """The same without a server."""
    with sqlite3.connect(project / ".mlops" / "dagster" / "history" / "runs.db") as runs:
        return dict(runs.execute("SELECT run_id, status FROM runs WHERE pipeline_name = 'delay_monitoring'"))


def materialised(url: str) -> dict[str, Counter[str]]:
    """How often each window of each monitor has been materialised."""
    nodes = {
        node["assetKey"]["path"][-1]: node["assetMaterializations"] for node in ask(url, MATERIALISED)["assetNodes"]
    }
    return {name: Counter(one["partition"] for one in nodes[name]) for name in MONITORS}


def verdicts(url: str, asset: str) -> dict[str, str]:
    """The verdict that the newest materialisation of each window speaks of."""
    [node] = [one for one in ask(url, MATERIALISED)["assetNodes"] if one["assetKey"]["path"][-1] == asset]
    found: dict[str, str] = {}
    for one in node["assetMaterializations"]:  # newest first
        entries = {entry["label"]: entry.get("text") for entry in one["metadataEntries"]}
        found.setdefault(one["partition"], entries["verdict"])
    return found


def parts(deployment: Deployment, window: str) -> tuple[str, ...]:
    return TrafficStore(deployment.stores.lake, "delay").parts("predictions", window)


def kill_as_soon_as(dagster: DagsterDev, what: Callable[[], bool]) -> None:
    """Kill all of Dagster's processes at once in the moment in which something is true."""
    wait_until(what, timeout_s=A_LOOK_AND_A_RUN_S, every_s=0.002)
    dagster.kill()


def test_traffic_becomes_verdicts_by_itself_and_a_late_label_touches_its_window_alone(deployment: Deployment) -> None:
    with running_dagster(deployment.project) as dagster:
        labels = deployment.send(0, 4)
        windows = sorted(deployment.sent)
        wait_until(lambda: deployment.is_settled(dagster.url), timeout_s=A_LOOK_AND_A_RUN_S, every_s=1)
        assert all(set(one) == set(windows) for one in materialised(dagster.url).values())
        assert set(verdicts(dagster.url, "data_health").values()) == {"healthy"}
        assert set(verdicts(dagster.url, "model_health")) == set(windows)
        said = deployment.status()
        assert said.returncode == 0, said.stderr
        assert "looked" in said.stdout

        before = materialised(dagster.url)
        deployment.post(labels[windows[1]])
        wait_until(lambda: deployment.table(windows[1])["label"].notna().all(), A_LOOK_AND_A_RUN_S, 1)
        wait_until(lambda: deployment.is_settled(dagster.url), timeout_s=A_LOOK_AND_A_RUN_S, every_s=1)
        for name, count in materialised(dagster.url).items():
            assert set(count - before[name]) == {windows[1]}
        assert deployment.table(windows[0])["label"].isna().all()


def test_killed_in_the_middle_of_a_run_it_does_not_wait_for_that_run_and_all_is_there_once(
    deployment: Deployment,
) -> None:
    with running_dagster(deployment.project) as dagster:
        deployment.send(4, 3)
        first = sorted(deployment.sent)[-3]
        kill_as_soon_as(dagster, lambda: first in live_windows(deployment.spec, deployment.stores))
    [stuck] = [run for run, status in runs_on_disk(deployment.project).items() if status == "STARTED"]

    deployment.send(7, 1)
    assert deployment.status().returncode == 0, "nobody is alarmed at once"
    beat = read_heartbeat(deployment.spec, deployment.stores)
    assert beat is not None
    long_ago = msgspec.structs.replace(beat, at=beat.at - 2 * MAX_SILENCE)
    deployment.stores.lake.write_document("delay", HEARTBEAT, long_ago)
    said = deployment.status()
    assert said.returncode == 1
    assert "the monitor last looked at" in said.stdout
    assert "does not do its work" in said.stderr

    with running_dagster(deployment.project) as dagster:
        wait_until(lambda: runs(dagster.url)[stuck] == "FAILURE", timeout_s=FOUND_DEAD_S, every_s=1)
        wait_until(lambda: deployment.is_settled(dagster.url), timeout_s=A_LOOK_AND_A_RUN_S, every_s=1)
        assert set(verdicts(dagster.url, "model_health")) == set(deployment.sent)
        assert len(deployment.table(first)) == ROWS_A_DAY
        assert deployment.status().returncode == 0


def test_killed_in_the_middle_of_taking_traffic_in_all_is_there_once(deployment: Deployment) -> None:
    with running_dagster(deployment.project) as dagster:
        labels = deployment.send(8, 4)
        windows = sorted(deployment.sent)[-4:]
        kill_as_soon_as(dagster, lambda: bool(parts(deployment, windows[0])))
        deployment.post(labels[windows[0]])
    with running_dagster(deployment.project) as dagster:
        wait_until(
            lambda: (
                deployment.is_settled(dagster.url)
                and deployment.table(windows[0])["label"].notna().all()
                and windows[-1] in verdicts(dagster.url, "model_health")
            ),
            timeout_s=A_LOOK_AND_A_RUN_S + FOUND_DEAD_S,
            every_s=1,
        )
        counted = {window: len(deployment.table(window)) for window in sorted(deployment.sent)}
        assert counted == dict.fromkeys(counted, ROWS_A_DAY)
