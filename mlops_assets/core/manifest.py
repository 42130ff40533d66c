"""What a servable bundle says of itself: the record read by the service, by `trace` and by whoever audits a model.

Values only; writing, hashing and verifying bundles is the business of `stores/bundles.py`.
"""

from datetime import datetime
from typing import Literal

import msgspec

FORMAT = 1


class FeatureContract(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input as the service must receive it, in the order of the model's features.

    `levels` are the known levels of a category (declared, or seen in training); a value outside them or outside
    `minimum`..`maximum` is scored and flagged, or refused where the domain is `closed`, as it is put into quarantine offline. A
    missing value is refused only where `nullable` is false.
    """

    name: str
    type: Literal["number", "integer", "boolean", "category"]
    unit: str = ""
    description: str = ""
    minimum: float | None = None
    maximum: float | None = None
    levels: tuple[str, ...] | None = None
    nullable: bool = True
    closed: bool = False


class ImputedFeature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one feature's missing values are filled: `value` for the constants, none for KNN and dropped features."""

    name: str
    strategy: Literal["mean", "median", "knn", "most_frequent", "missing_category", "dropped"]
    missing_rate: float
    alarm: bool
    value: float | str | None = None


class ImputationPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything needed to fill missing values, as data. Made from training rows only.

    KNN follows `sklearn.impute.KNNImputer` with uniform weights on the columns `donor_columns` (numeric features that
    are not dropped), each divided by its `donor_scales`, so that no unit outweighs another; `donors` holds those
    columns' training values, unscaled, with None where missing, at most 2,000 rows.
    """

    features: tuple[ImputedFeature, ...]
    neighbours: int = 5
    donor_columns: tuple[str, ...] = ()
    donor_scales: tuple[float, ...] = ()
    donors: tuple[tuple[float | None, ...], ...] = ()

    def __getitem__(self, name: str) -> ImputedFeature:
        return next(feature for feature in self.features if feature.name == name)

    @property
    def kept(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features if feature.strategy != "dropped")

    @property
    def dropped(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features if feature.strategy == "dropped")

    @property
    def alarms(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features if feature.alarm)

    @property
    def knn(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features if feature.strategy == "knn")


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`manifest.json` of a servable bundle.

    `classes` are the labels in output order, empty for a regression. `uncompiled` is None when `scorer.npz` answers, else
    the reason why the scikit-learn pipeline (`pipeline.skops`) must. `files` maps each other file of the bundle to its SHA-256.
    """

    model: str
    version: int
    task: Literal["binary", "multiclass", "regression"]
    features: tuple[FeatureContract, ...]
    label: str
    classes: tuple[str | int, ...]
    threshold: float
    imputation: ImputationPlan
    entity_key: str
    event_time: str
    as_of: datetime
    training_start: datetime
    training_end: datetime
    training_rows: int
    data_hash: str
    code_version: str
    libraries: dict[str, str]
    metrics: dict[str, float]
    mlflow_run: str
    dagster_run: str
    fallback_value: float | str | int | None
    uncompiled: str | None
    trusted_types: tuple[str, ...]
    files: dict[str, str]
    format: int = FORMAT
