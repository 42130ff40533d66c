"""What people see who type `dagster dev`: the lineage that earlier runs left, checks and pictures, and a job to launch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster_graphql import DagsterGraphQLClient
from playwright.sync_api import Page, sync_playwright

from mlops_assets.operations.stores import Stores
from mlops_assets.stores.home import Home
from mlops_assets_tests.end_to_end.dagster_dev import ROOT, ask, dagster_dev, make_project, run_dagster
from mlops_assets_tests.requirements import needs
from mlops_assets_tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.bento]
ASSETS = (
    "raw_data",
    "quarantine",
    "validated_features",
    "imputed_features",
    "trained_model",
    "evaluation",
    "deployed_bento",
)
ARTIFACTS = ROOT / "test-artifacts"
JOB = "flight_delay_lifecycle"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MATERIALISED = """{ assetNodes(group: {groupName: "flight_delay", repositoryName: "__repository__",
    repositoryLocationName: "mlops_assets"}) { assetKey { path } assetMaterializations(limit: 1) { runId } } }"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the lifecycle of `flight_delay` has been run, and nothing is running."""
    folder = make_project(tmp_path_factory.mktemp("project"))
    run_dagster(folder, "job", "execute", "-m", "mlops_assets.definitions", "-j", JOB)
    return folder


@pytest.fixture(scope="module")
def url(project: Path) -> Iterator[str]:
    with dagster_dev(project) as url:
        yield url


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A page of a fresh headless Chromium; an error in it fails the test."""
    chromium = needs("chromium")
    errors: list[str] = []
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path,
            executable_path=chromium,
            headless=True,
            args=CHROMIUM_FLAGS,
            viewport={"width": 1600, "height": 900},
        )
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        context.close()
    assert errors == []


def materialised_by(url: str) -> dict[str, str]:
    """The run that materialised each asset last."""
    nodes = ask(url, MATERIALISED)["assetNodes"]
    return {
        node["assetKey"]["path"][-1]: node["assetMaterializations"][0]["runId"]
        for node in nodes
        if node["assetMaterializations"]  # the monitors have seen no traffic here
    }


def test_the_lineage_of_an_earlier_run_survives_a_bare_dagster_dev(project: Path, url: str):
    """Without DAGSTER_HOME, `dagster dev` may keep its storage in a folder that is deleted when it exits."""
    runs = materialised_by(url)
    assert set(runs) == set(ASSETS)
    assert len(set(runs.values())) == 1
    with dagster_dev(project) as another:
        assert materialised_by(another) == runs


def test_the_ui_shows_the_lineage_and_its_checks(url: str, page: Page):
    ARTIFACTS.mkdir(exist_ok=True)
    page.goto(f"{url}/locations/__repository__@mlops_assets/asset-groups/flight_delay/lineage")
    for asset in ASSETS:
        page.get_by_text(asset, exact=True).first.wait_for()
    page.screenshot(path=ARTIFACTS / "lineage.png")

    page.goto(f"{url}/assets/flight_delay/evaluation")
    page.get_by_text("compared_with").first.wait_for()
    page.locator("img[alt='calibration']").or_(page.get_by_text("calibration", exact=True)).first.wait_for()
    page.screenshot(path=ARTIFACTS / "evaluation.png", full_page=True)
    for picture in ("confusion_matrix", "calibration"):
        page.get_by_role("row").filter(has_text=picture).get_by_text("Show Markdown").click()
        image = page.get_by_role("img", name=picture)
        image.wait_for()
        assert image.evaluate("image => image.complete && image.naturalWidth > 200")
        page.screenshot(path=ARTIFACTS / f"{picture}.png")
        page.keyboard.press("Escape")
        image.wait_for(state="hidden")

    page.goto(f"{url}/assets/flight_delay/evaluation?view=checks")
    for gate in ("brier_beats_baseline", "roc_auc_at_least_per_slice", "latency_at_most"):
        page.get_by_text(gate).first.wait_for()
    page.get_by_text("must be below").first.wait_for()
    page.screenshot(path=ARTIFACTS / "checks.png")


def test_a_run_launched_from_the_ui_ends_well_and_releases_nothing_new(project: Path, url: str):
    client = DagsterGraphQLClient("127.0.0.1", port_number=int(url.rpartition(":")[2]))
    before = materialised_by(url)
    run_id = client.submit_job_execution(JOB, repository_location_name="mlops_assets", repository_name="__repository__")
    wait_until(
        lambda: client.get_run_status(run_id).value in ("SUCCESS", "FAILURE", "CANCELED"), timeout_s=300, every_s=1
    )
    assert client.get_run_status(run_id).value == "SUCCESS"
    after = materialised_by(url)
    assert set(after.values()) == {run_id}
    assert after != before
    stores = Stores(Home(project / ".mlops"))
    assert stores.releases.current("flight_delay").release == 1
    runs = stores.registry.client.search_runs([stores.registry.experiment("flight_delay")])
    assert {run.data.tags["dagster/run_id"]: run.info.status for run in runs}[run_id] == "FINISHED"


def test_dagsters_own_validation_accepts_the_project(project: Path):
    assert "Validation successful" in run_dagster(project, "definitions", "validate")


def test_runs_of_one_model_wait_for_each_other(url: str):
    client = DagsterGraphQLClient("127.0.0.1", port_number=int(url.rpartition(":")[2]))
    runs = [
        client.submit_job_execution(JOB, repository_location_name="mlops_assets", repository_name="__repository__")
        for _ in range(2)
    ]
    at_once: list[int] = []

    def both_ended() -> bool:
        states = [client.get_run_status(run).value for run in runs]
        at_once.append(sum(state in ("STARTING", "STARTED") for state in states))
        return all(state in ("SUCCESS", "FAILURE", "CANCELED") for state in states)

    wait_until(both_ended, timeout_s=600, every_s=0.5)
    assert [client.get_run_status(run).value for run in runs] == ["SUCCESS", "SUCCESS"]
    assert max(at_once) == 1
    deployed = """{ assetNodes(assetKeys: [{path: ["flight_delay", "deployed_bento"]}]) { assetMaterializations(limit: 2) {
        metadataEntries { label ... on BoolMetadataEntry { boolValue } } } } }"""
    (node,) = ask(url, deployed)["assetNodes"]
    for materialisation in node["assetMaterializations"]:
        shown = {entry["label"]: entry.get("boolValue") for entry in materialisation["metadataEntries"]}
        assert shown["new_release"] is False
