"""The models that this deployment declares, read from `defs/` without Dagster."""

from pathlib import Path

import yaml

import mlops_assets
from mlops_assets.core.spec import ModelSpec

DEFS = Path(mlops_assets.__file__).parent / "defs"
COMPONENT = "mlops_assets.components.ModelLifecycle"


def declared_models(folder: Path = DEFS) -> dict[str, ModelSpec]:
    """Every model declared below a folder, by name.

    Raises
    ------
    ValueError
        When a declaration is wrong (naming its file), or two models have one name.
    """
    models: dict[str, ModelSpec] = {}
    for path in sorted(folder.rglob("defs.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if not isinstance(document, dict) or document.get("type") != COMPONENT:
                continue
            try:
                spec = ModelSpec.model_validate(document.get("attributes"))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            if spec.name in models:
                raise ValueError(f"{path}: a model named {spec.name!r} is declared already; names are unique")
            models[spec.name] = spec
    return models
