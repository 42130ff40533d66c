"""MLflow runs whose Dagster run died: they are ended, so that none stays under way for ever."""

from collections.abc import Callable

from mlops_assets.operations.stores import Stores

KILLED = "KILLED"
DAGSTER_RUN = "dagster/run_id"


def end_killed(stores: Stores, model: str, is_over: Callable[[str], bool]) -> tuple[str, ...]:
    """End the MLflow runs of a model that are under way though their Dagster run is over; returns their ids.

    Parameters
    ----------
    is_over
        Has the Dagster run with this id ended? A run that ends by itself ends its MLflow run before.
    """
    client = stores.registry.client
    experiment = client.get_experiment_by_name(model)
    if experiment is None:
        return ()
    found = client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'", max_results=100)
    killed = [run.info.run_id for run in found if (by := run.data.tags.get(DAGSTER_RUN)) and is_over(by)]
    for run in killed:
        client.set_terminated(run, KILLED)
    return tuple(killed)
