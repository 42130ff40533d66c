"""The models that this deployment declares, read from `defs/` without Dagster."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

import mlops_assets
from mlops_assets.core.spec import ModelSpec

DEFS = Path(mlops_assets.__file__).parent / "defs"
COMPONENT = "mlops_assets.components.ModelLifecycle"


def declared_models(folder: Path = DEFS) -> dict[str, ModelSpec]:
    """Every model declared below a folder, by name.

    Raises
    ------
    ValueError
        When a declaration is wrong (naming its file, its model and each field), or two models have one name.
    """
    models: dict[str, ModelSpec] = {}
    for path in sorted(folder.rglob("defs.yaml")):
        for document in _read_yaml(path):
            if not isinstance(document, dict) or document.get("type") != COMPONENT:
                continue
            spec = _read_model(path, document.get("attributes"))
            if spec.name in models:
                raise ValueError(f"{path}: a model named {spec.name!r} is declared already; names are unique")
            models[spec.name] = spec
    return models


def _read_yaml(path: Path) -> list[Any]:
    try:
        return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no valid YAML: {error}") from error


def _read_model(path: Path, attributes: Any) -> ModelSpec:
    try:
        return ModelSpec.model_validate(attributes)
    except ValidationError as error:
        name = attributes.get("name") if isinstance(attributes, dict) else None
        mistakes = [f"{'.'.join(map(str, one['loc'])) or 'attributes'}: {one['msg']}" for one in error.errors()]
        raise ValueError(f"{path}: model {name!r}: {'; '.join(mistakes)}") from error
