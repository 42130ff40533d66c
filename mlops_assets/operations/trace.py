"""From one prediction back to everything that made it."""

from dataclasses import dataclass

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.records import LabelRecord, PredictionRecord
from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.operations.stores import Stores


class UnknownPrediction(LookupError):
    """No record of that id is in the log."""


@dataclass(frozen=True)
class Trace:
    """One answer with the release that gave it, the version behind it, and the truth if it is known."""

    prediction: PredictionRecord
    plan: ReleasePlan | None
    manifest: Manifest | None
    labels: tuple[LabelRecord, ...]


def trace(stores: Stores, prediction_id: str) -> tuple[Trace, ...]:
    """Every answer recorded under an id: one per role and version.

    Raises
    ------
    UnknownPrediction
        When the log holds no such id.
    """
    predictions = stores.log.find(prediction_id)
    if not predictions:
        raise UnknownPrediction(
            f"no prediction {prediction_id!r} in {stores.home.prediction_log}: check the id, or the folder that MLOPS_HOME names"
        )
    return tuple(_trace(stores, prediction) for prediction in predictions)


def _trace(stores: Stores, prediction: PredictionRecord) -> Trace:
    plan = stores.releases.get(prediction.model, prediction.release) if prediction.release else None
    manifest = stores.bundles.get(prediction.bundle).manifest if prediction.bundle else None
    labels = [
        record
        for record in stores.log.records(prediction.model)
        if isinstance(record, LabelRecord) and _belongs(record, prediction)
    ]
    return Trace(prediction, plan, manifest, tuple(labels))


def _belongs(label: LabelRecord, prediction: PredictionRecord) -> bool:
    if label.id is not None:
        return label.id == prediction.id
    return label.entity == prediction.entity and label.event_time == prediction.event_time
