"""`ModelLifecycle`: one YAML file becomes all the definitions of one model. It assembles, and holds no logic."""

from dataclasses import dataclass
from typing import Self

import dagster as dg
from pydantic import BaseModel

from mlops_assets.assets.batch_predictions import batch_predictions_assets
from mlops_assets.assets.by_hand import jobs_by_hand
from mlops_assets.assets.data_health import data_health_asset
from mlops_assets.assets.deployed_bento import deployed_bento_asset
from mlops_assets.assets.evaluation import evaluation_asset
from mlops_assets.assets.frames import FrameTypes
from mlops_assets.assets.imputed_features import imputed_features_asset
from mlops_assets.assets.live_traffic import live_traffic_asset
from mlops_assets.assets.model_health import model_health_asset
from mlops_assets.assets.raw_data import raw_data_asset
from mlops_assets.assets.rollout import rollout_asset, tell_of_look
from mlops_assets.assets.trained_model import trained_model_asset
from mlops_assets.assets.validated_features import validated_features_asset
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.models import filled
from mlops_assets.sensors.calendar import calendar_schedules
from mlops_assets.sensors.guard import guard_sensor
from mlops_assets.sensors.response import response_sensor
from mlops_assets.sensors.rollout import rollout_sensor
from mlops_assets.sensors.traffic import traffic_sensor
from mlops_assets.sensors.watch import watch_sensor

MODEL_TAG = "mlops_assets/model"
MAX_RUNTIME_S = 3600


@dataclass
class ModelLifecycle(dg.Component):
    """A declared model: from raw data to the deployed Bento, and from logged answers to its health, with checks and sensors."""

    spec: ModelSpec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return ModelSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Take the validated attributes, with templates such as `{{ env.NAME }}` in text values filled in."""
        assert isinstance(attributes, ModelSpec)
        return cls(filled(attributes))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        return lifecycle_definitions(self.spec)


def lifecycle_definitions(spec: ModelSpec) -> dg.Definitions:
    """The assets, checks and job of one model, without resources."""
    types = FrameTypes.of(spec)
    assets = [
        raw_data_asset(spec, types),
        validated_features_asset(spec, types),
        imputed_features_asset(spec, types),
        trained_model_asset(spec, types),
        evaluation_asset(spec, types),
        deployed_bento_asset(spec, types),
    ]
    watching = [live_traffic_asset(spec), data_health_asset(spec), model_health_asset(spec)]
    lifecycle = dg.define_asset_job(
        f"{spec.name}_lifecycle",
        selection=dg.AssetSelection.assets(*assets),
        description=f"From raw data to the deployed Bento of `{spec.name}`, with every gate inside.",
        tags={MODEL_TAG: spec.name, "dagster/max_runtime": str(MAX_RUNTIME_S)},
        executor_def=dg.in_process_executor,
    )
    monitoring = dg.define_asset_job(
        f"{spec.name}_monitoring",
        selection=dg.AssetSelection.assets(*watching),
        description=f"From logged answers and labels to the verdicts on the data and the model of `{spec.name}`, window by window.",
        tags={"dagster/max_runtime": str(MAX_RUNTIME_S)},
        executor_def=dg.in_process_executor,
    )
    sensors = [traffic_sensor(spec), watch_sensor(spec), response_sensor(spec), guard_sensor(spec)]
    trials = []
    if spec.release.strategy != "immediate":
        sensors.append(rollout_sensor(spec, tell_of_look))
        trials.append(rollout_asset(spec))
    return dg.Definitions(
        assets=[*assets, *watching, *trials, *batch_predictions_assets(spec)],
        jobs=[lifecycle, monitoring, *jobs_by_hand(spec)],
        schedules=calendar_schedules(spec),
        sensors=sensors,
    )
