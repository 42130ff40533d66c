"""The models that this deployment declares, read from `defs/` without Dagster."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
from pydantic import ValidationError

from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.terms import COMPONENT as COMPONENT
from mlops_assets.operations.terms import DEFS as DEFS


class NotDeclared(LookupError):
    """There is no model of that name; the message says which there are, and which files cannot be read."""


class Mistake(NamedTuple):
    """What is wrong with a declaration, naming its file, its model and each field; `model` is None where that cannot be told."""

    model: str | None
    what: str


def declared_models(folder: Path = DEFS) -> dict[str, ModelSpec]:
    """Every model declared below a folder, by name.

    Raises
    ------
    ValueError
        When a declaration is wrong (naming its file, its model and each field), a template in it cannot be filled in, or two
        models have one name.
    """
    models, mistakes = read_declarations(folder)
    if mistakes:
        raise ValueError("\n".join(one.what for one in mistakes))
    return models


def declared_model(name: str, folder: Path = DEFS) -> ModelSpec:
    """The model declared by a name, whatever is wrong with the declarations of others.

    Raises
    ------
    NotDeclared
        When there is none.
    ValueError
        As `declared_models`, where it is this model's declaration that is wrong.
    """
    models, mistakes = read_declarations(folder)
    if own := [one.what for one in mistakes if one.model == name]:
        raise ValueError("\n".join(own))
    if name not in models:
        names = f"no model {name!r}: declared are {', '.join(models) or 'none'}"
        raise NotDeclared("\n".join((names, *(one.what for one in mistakes))))
    return models[name]


def how_to_begin(model: str) -> str:
    """What to do where a model has no release yet."""
    return f"train its first version with `mlops-assets retrain {model} --reason ... --now`"


def read_declarations(folder: Path = DEFS) -> tuple[dict[str, ModelSpec], tuple[Mistake, ...]]:
    """The models declared below a folder whose declarations are right, by name, and what is wrong with the others."""
    models: dict[str, ModelSpec] = {}
    mistakes: list[Mistake] = []
    for path in sorted(folder.rglob("defs.yaml")):
        try:
            documents = _read_yaml(path)
        except ValueError as error:
            mistakes.append(Mistake(None, str(error)))
            continue
        for document in documents:
            if not isinstance(document, dict) or document.get("type") != COMPONENT:
                continue
            attributes = document.get("attributes")
            try:
                spec = _read_model(path, attributes)
            except ValueError as error:
                mistakes.append(Mistake(_name_of(attributes), str(error)))
                continue
            if spec.name in models:
                what = f"{path}: a model named {spec.name!r} is declared already; names are unique"
                mistakes.append(Mistake(spec.name, what))
            else:
                models[spec.name] = spec
    return models, tuple(mistakes)


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
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # such as bytes that are no UTF-8, or a date that there is not
        raise ValueError(f"{path}: no valid YAML: {error}") from error


def _name_of(attributes: Any) -> str | None:
    name = attributes.get("name") if isinstance(attributes, dict) else None
    return None if name is None else str(name)


def _read_model(path: Path, attributes: Any) -> ModelSpec:
    name = _name_of(attributes)
    try:
        return filled(ModelSpec.model_validate(attributes))
    except ValidationError as error:
        mistakes = [f"{'.'.join(map(str, one['loc'])) or 'attributes'}: {one['msg']}" for one in error.errors()]
        raise ValueError(f"{path}: model {name!r}: {'; '.join(mistakes)}") from error
    except ValueError as error:
        raise ValueError(f"{path}: model {name!r}: {error}") from error
