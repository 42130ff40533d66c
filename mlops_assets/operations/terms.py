"""What of a model's declaration decides whether a version may return, and how it is watched then: all that a way back needs.

Read from `defs/` without whom else the declaration names: to import its estimator takes seconds, for which callers would wait.
The whole declaration is read by `models.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

import mlops_assets
from mlops_assets.core.rollout import BreakerLimits

if TYPE_CHECKING:
    from mlops_assets.core.spec import ModelSpec

DEFS = Path(mlops_assets.__file__).parent / "defs"
COMPONENT = "mlops_assets.components.ModelLifecycle"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast, where it is there


@dataclass(frozen=True)
class Terms:
    """What a way back depends on.

    Attributes
    ----------
    features
        The type of each declared feature, by its name.
    attempts
        How often a remedy that fails is tried.
    limits
        Of the breaker.
    """

    model: str
    features: Mapping[str, str]
    attempts: int
    limits: BreakerLimits

    @classmethod
    def of(cls, spec: "ModelSpec") -> "Terms":
        features = {feature.name: str(feature.type) for feature in spec.features}
        return cls(spec.name, features, spec.response.attempts, spec.release.breaker.limits)


def read_terms(model: str, folder: Path = DEFS) -> Terms | None:
    """The terms of a declared model; None where its declaration has to be read as a whole to tell.

    That is where nothing, or more than one thing, is declared by that name; where a template, or a default that only the whole
    knows, stands for one of the terms; and where something is wrong with them, which reading the whole then says.
    """
    found: list[_Attributes] = []
    try:
        for path in sorted(folder.rglob("defs.yaml")):
            for document in yaml.load_all(path.read_bytes(), _Loader):
                if isinstance(document, dict) and document.get("type") == COMPONENT:
                    found.append(msgspec.convert(document.get("attributes"), _Attributes))
        mine = [one for one in found if one.name == model]
        if len(mine) != 1 or any(_is_template(one.name) for one in found):
            return None
        features = {feature.name: feature.type for feature in mine[0].features}
        if any(_is_template(text) for pair in features.items() for text in pair):
            return None
        # A decision that is made now has not been tried yet: no number of attempts gives it up.
        return Terms(model, features, 1, _limits(mine[0].release.breaker))
    except (OSError, yaml.YAMLError, ValueError):  # what msgspec and pydantic raise are such too
        return None


def _limits(breaker: dict[str, Any]) -> BreakerLimits:
    """Raises `ValueError` for what is no declaration of a breaker, or a template."""
    if not breaker:
        return BreakerLimits()
    from mlops_assets.core.spec.release import BreakerSpec

    return BreakerSpec.model_validate(breaker).limits


def _is_template(text: str) -> bool:
    return any(mark in text for mark in ("{{", "{%"))


class _Feature(msgspec.Struct):
    name: str
    type: str


class _Release(msgspec.Struct):
    breaker: dict[str, Any] = {}


class _Attributes(msgspec.Struct):
    """Of a declaration, what the terms are made from."""

    name: str
    features: tuple[_Feature, ...]
    release: _Release = msgspec.field(default_factory=_Release)
