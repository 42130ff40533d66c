"""No MLflow run stays under way when its Dagster run is over."""

import pytest
from mlflow.entities import RunStatus

from mlops_assets.operations.stores import Stores
from mlops_assets.operations.tracked_runs import end_killed
from mlops_assets.stores.home import Home


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    stores = Stores(Home(tmp_path_factory.mktemp("home")))
    assert end_killed(stores, "delay", lambda run: True) == (), "a model that was never tracked"
    stores.registry.experiment("delay")
    return stores


def test_only_what_is_over_is_ended(stores: Stores) -> None:
    client, experiment = stores.registry.client, stores.registry.experiment("delay")
    runs = {
        name: client.create_run(experiment, tags={"dagster/run_id": name}).info.run_id for name in ("dead", "alive")
    }
    runs["nobody's"] = client.create_run(experiment).info.run_id
    done = client.create_run(experiment, tags={"dagster/run_id": "dead"}).info.run_id
    client.set_terminated(done, "FINISHED")

    assert end_killed(stores, "delay", lambda run: run == "dead") == (runs["dead"],)
    status = {name: client.get_run(run).info.status for name, run in {**runs, "done": done}.items()}
    running = RunStatus.to_string(RunStatus.RUNNING)
    assert status == {"dead": "KILLED", "alive": running, "nobody's": running, "done": "FINISHED"}
    assert end_killed(stores, "delay", lambda run: run == "dead") == ()
