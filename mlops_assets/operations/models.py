"""The models that this deployment declares, read from `defs/` without Dagster."""

import os
from pathlib import Path
from typing import Any

import jinja2
import yaml
from pydantic import ValidationError

from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.terms import COMPONENT as COMPONENT
from mlops_assets.operations.terms import DEFS as DEFS


def declared_models(folder: Path = DEFS) -> dict[str, ModelSpec]:
    """Every model declared below a folder, by name.

    Raises
    ------
    ValueError
        When a declaration is wrong (naming its file, its model and each field), a template in it cannot be filled in, or two
        models have one name.
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


def filled(spec: ModelSpec) -> ModelSpec:
    """The declaration with the templates in its text values filled in: `{{ env.NAME }}`, `{{ env('NAME', 'default') }}`.

    What is filled in stays text, and text without a template stays as it is.

    Raises
    ------
    ValueError
        When a template is wrong or its environment variable is not set (naming the field), or what it gives fits no model.
    """
    return ModelSpec.model_validate(_fill(spec.model_dump(mode="json", exclude_unset=True), ""))


def _fill(value: Any, field: str) -> Any:
    if isinstance(value, dict):
        return {name: _fill(part, f"{field}.{name}" if field else name) for name, part in value.items()}
    if isinstance(value, list):
        return [_fill(part, f"{field}.{position}") for position, part in enumerate(value)]
    if not isinstance(value, str) or not any(mark in value for mark in ("{{", "{%")):
        return value
    try:
        return _TEMPLATES.from_string(value).render(env=_Variables())
    except (jinja2.TemplateError, _NotSet) as error:
        raise ValueError(f"{field}: {value!r} cannot be filled in: {error}") from error


_TEMPLATES = jinja2.Environment(undefined=jinja2.StrictUndefined)


class _NotSet(LookupError):
    """An environment variable that a declaration wants is not there."""


class _Variables:
    def __getattr__(self, name: str) -> str:
        if name.startswith(("jinja", "__")):  # Jinja asks every object for its own marks
            raise AttributeError(name)
        return self(name)

    def __call__(self, name: str, default: str | None = None) -> str:
        value = os.environ.get(name, default)
        if value is None:
            raise _NotSet(
                f"the environment variable {name} is not set; set it, or write {{{{ env('{name}', 'default') }}}}"
            )
        return value


def _read_yaml(path: Path) -> list[Any]:
    try:
        return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no valid YAML: {error}") from error


def _read_model(path: Path, attributes: Any) -> ModelSpec:
    name = attributes.get("name") if isinstance(attributes, dict) else None
    try:
        return filled(ModelSpec.model_validate(attributes))
    except ValidationError as error:
        mistakes = [f"{'.'.join(map(str, one['loc'])) or 'attributes'}: {one['msg']}" for one in error.errors()]
        raise ValueError(f"{path}: model {name!r}: {'; '.join(mistakes)}") from error
    except ValueError as error:
        raise ValueError(f"{path}: model {name!r}: {error}") from error
