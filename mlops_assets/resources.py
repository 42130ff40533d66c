"""The stores and the tracking as Dagster resources, and the IO manager that keeps asset outputs in the lake."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import mlflow
import pandas as pd
from dagster_mlflow.resources import MlFlow
from pydantic import Field, PrivateAttr

from mlops_assets.operations.stores import Stores
from mlops_assets.stores.home import Home


class StoresResource(dg.ConfigurableResource):
    """Where state lives: one folder for everything."""

    home: str = Field(
        default="", description="folder of all local state; empty: $MLOPS_HOME, or .mlops in the working directory"
    )

    def open(self) -> Stores:
        return Stores(Home(Path(self.home).absolute()) if self.home else Home.from_environment())


@dataclass(frozen=True)
class TrackedRun:
    """The MLflow run that belongs to a Dagster run, with `dagster-mlflow`'s handle on it."""

    id: str
    mlflow: Any


class TrackingResource(dg.ConfigurableResource):
    """One MLflow run per Dagster run and model, through `dagster-mlflow`, ended with the status that the Dagster run deserves.

    `dagster-mlflow` starts its run with the resource, whether a step wants it or not, and lets MLflow record a failed run as
    finished. Here the run is opened by the first step that asks for it, and closed with FAILED when any step of the Dagster run
    has failed. A later step of the same Dagster run, also in another process, reopens the same MLflow run.
    """

    stores: dg.ResourceDependency[StoresResource]
    _runs: dict[str, TrackedRun] = PrivateAttr(default_factory=dict)

    def run(self, context: dg.AssetExecutionContext, model: str) -> TrackedRun:
        """The MLflow run of this Dagster run in the model's experiment, started when it is not there, and active."""
        if model not in self._runs:
            self._leave_active_run()
            registry = self.stores.open().registry
            registry.use()
            registry.experiment(model)
            handle: Any = MlFlow(_InitContext(context, registry.tracking_uri, model))
            active = mlflow.active_run()
            assert active is not None
            self._runs[model] = TrackedRun(active.info.run_id, handle)
            handle.set_tags(
                {"dagster/run_id": context.run.run_id, "dagster/job_name": context.run.job_name, "model": model}
            )
        return self._runs[model]

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator["TrackingResource", None, None]:
        finished = False
        try:
            yield self
            finished = True
        finally:
            self.close(failed=not finished or _has_failed_step(context))

    def close(self, *, failed: bool) -> None:
        """End every run that was opened here, and leave none for MLflow's own exit handler to call finished."""
        self._leave_active_run()
        client = self.stores.open().registry.client if self._runs else None
        for run in self._runs.values():
            assert client is not None
            client.set_terminated(run.id, "FAILED" if failed else "FINISHED")
        self._runs.clear()

    @staticmethod
    def _leave_active_run() -> None:
        while mlflow.active_run() is not None:
            mlflow.end_run("RUNNING")


def _has_failed_step(context: dg.InitResourceContext) -> bool:
    if context.run is None or context.instance is None:
        return False
    return context.instance.get_run_stats(context.run.run_id).steps_failed > 0


class _InitContext(SimpleNamespace):
    """What `dagster-mlflow` reads from the context of its legacy resource."""

    def __init__(self, context: dg.AssetExecutionContext, tracking_uri: str, experiment: str):
        super().__init__(
            log=context.log,
            run_id=context.run.run_id,
            dagster_run=context.run,
            resource_config={"experiment_name": experiment, "mlflow_tracking_uri": tracking_uri},
        )


class LakeIOManager(dg.ConfigurableIOManager):
    """Keeps what assets hand on: DataFrames as Parquet tables, other values as JSON documents, by model and asset name."""

    stores: dg.ResourceDependency[StoresResource]

    @cached_property
    def _lake(self) -> Any:
        return self.stores.open().lake

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        model, name = context.asset_key.path
        if isinstance(obj, pd.DataFrame):
            path = self._lake.write_table(model, name, obj)
        else:
            path = self._lake.write_document(model, name, obj)
        context.add_output_metadata({"path": dg.MetadataValue.path(path)})

    def load_input(self, context: dg.InputContext) -> Any:
        model, name = context.asset_key.path
        kind = context.dagster_type.typing_type
        if kind is pd.DataFrame or kind is Any:
            return self._lake.read_table(model, name)
        return self._lake.read_document(model, name, kind)


def make_resources(home: str = "") -> dict[str, Any]:
    """The resources that every definition of the project asks for."""
    stores = StoresResource(home=home)
    return {"stores": stores, "tracking": TrackingResource(stores=stores), "io_manager": LakeIOManager(stores=stores)}
