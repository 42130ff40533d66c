"""Small models whose bundles hold the rows that answers are explained against, as those of a training do."""

from dataclasses import replace

from mlops_assets.core.contract import raw_rows
from mlops_assets.core.explaining import BACKGROUND, Background
from mlops_assets_tests.serving.factory import SmallModel, Task, small_model, small_rows


def background_of(model: SmallModel) -> Background:
    rows = small_rows(model.manifest.task, 20, seed=model.manifest.version)
    return Background(tuple(raw_rows(model.manifest.features, rows)))


def explained_model(name: str = "delay", task: Task = "binary", version: int = 1, compiled: bool = True) -> SmallModel:
    """`small_model` with a background."""
    model = small_model(name, task, version, compiled)
    return replace(model, files={**model.files, BACKGROUND: background_of(model).to_json()})
