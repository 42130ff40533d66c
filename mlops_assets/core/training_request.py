"""What one training is asked to do otherwise than declared, and the declaration that follows from it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

import msgspec
import pandas as pd
from pydantic import TypeAdapter

from mlops_assets.core.spec import ChampionGate, ModelSpec
from mlops_assets.core.spec.values import Duration

REQUEST = "training_request"

Trigger = Literal["hand", "schedule", "performance", "drift", "feed"]


class TrainingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a model is trained, and with what changes.

    Attributes
    ----------
    trigger
        A candidate that "drift" asked for must be better than the champion, with confidence: drift is not decay.
    without
        Features that are taken for missing in all rows, and so dropped by the imputation plan.
    window
        Length of the rolling training window instead of the declared one.
    """

    trigger: Trigger = "hand"
    without: tuple[str, ...] = ()
    window: timedelta | None = None


def request_of(details: Mapping[str, str]) -> TrainingRequest:
    """The training that a decision's details ask for.

    Raises
    ------
    ValueError
        For a trigger or a window that is none.
    """
    without = tuple(name for name in details.get("without", "").split(",") if name)
    trigger = msgspec.convert(details.get("trigger", "hand"), Trigger)
    window = TypeAdapter(Duration).validate_python(details["window"]) if details.get("window") else None
    return TrainingRequest(trigger, without, window)


def note(frame: pd.DataFrame, request: TrainingRequest) -> None:
    """Write the request into the frame's `attrs`, which go with it from asset to asset."""
    frame.attrs[REQUEST] = msgspec.json.encode(request).decode()


def requested(spec: ModelSpec, frame: pd.DataFrame) -> ModelSpec:
    """The declaration as the request in a frame's `attrs` wants it; unchanged where there is none."""
    if REQUEST not in frame.attrs:
        return spec
    request = msgspec.json.decode(frame.attrs[REQUEST], type=TrainingRequest)
    changes: dict[str, object] = {}
    if request.window is not None:
        changes["training"] = spec.training.model_copy(update={"window": request.window})
    if request.trigger == "drift":
        changes["gates"] = tuple(
            gate.model_copy(update={"superior": True}) if isinstance(gate, ChampionGate) else gate
            for gate in spec.gates
        )
    return spec.model_copy(update=changes) if changes else spec


def blank(spec: ModelSpec, frame: pd.DataFrame, without: tuple[str, ...]) -> None:
    """Take features for missing in all rows.

    Raises
    ------
    ValueError
        For a name that is no feature, or a feature that may not be missing.
    """
    for name in without:
        if name not in spec.feature_names or not spec.feature(name).nullable:
            allowed = ", ".join(one.name for one in spec.features if one.nullable)
            raise ValueError(
                f"model {spec.name!r} cannot be trained without {name!r}: it can be without {allowed or 'none'}"
            )
        if name in frame:
            frame[name] = pd.Series(None, index=frame.index, dtype=frame[name].dtype)
