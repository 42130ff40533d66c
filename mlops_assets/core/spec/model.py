"""One model, declared: the parts put together, and what must agree between them."""

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from mlops_assets.core.metrics import METRICS, Task, metrics_of
from mlops_assets.core.spec.batch import BatchSpec
from mlops_assets.core.spec.data import FeatureSpec, ImputationSpec, LabelSpec, QualitySpec, SourceSpec
from mlops_assets.core.spec.declaration import Declaration, mistake
from mlops_assets.core.spec.gates import ChampionGate, EvaluationSpec, GateSpec, LatencyGate, LimitGate
from mlops_assets.core.spec.monitoring import MonitoringSpec
from mlops_assets.core.spec.release import ReleaseSpec
from mlops_assets.core.spec.response import FeedSpec, ResponseSpec
from mlops_assets.core.spec.training import TrainingSpec
from mlops_assets.core.spec.values import AwareDatetime, Identifier, import_object

_OWNER = re.compile(r"team:.+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")  # what Dagster takes for an owner


class ModelSpec(Declaration):
    """One model, declared: from where its rows come to which gates it must pass."""

    name: Identifier
    owner: str = Field(min_length=1, description="e-mail address, or 'team:<name>'")
    description: str = ""
    task: Task
    source: SourceSpec
    entity_key: str = Field(description="column that names what a prediction is about")
    event_time: str = Field(description="column with the time (zone included) at which a prediction is asked for")
    live_from: AwareDatetime = Field(description="from here on, rows come from logged traffic instead of the source")
    label: LabelSpec
    features: tuple[FeatureSpec, ...] = Field(min_length=1)
    quality: QualitySpec = QualitySpec()
    imputation: ImputationSpec = ImputationSpec()
    training: TrainingSpec
    evaluation: EvaluationSpec = EvaluationSpec()
    gates: tuple[GateSpec, ...] = ()
    release: ReleaseSpec = ReleaseSpec()
    monitoring: MonitoringSpec = MonitoringSpec()
    response: ResponseSpec = ResponseSpec()
    batch: BatchSpec | None = Field(None, description="a table that is scored in one go; left out: there is none")
    feeds: dict[Identifier, FeedSpec] = Field({}, description="where features come from, by the name that they give")

    @property
    def headline_loss(self) -> str:
        """The metric by which the monitors judge decay: a loss, mean over rows."""
        return self.monitoring.metric or ("mae" if self.task == "regression" else "brier")

    @property
    def number_features(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features if not feature.is_category)

    @property
    def category_features(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features if feature.is_category)

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    def feed_of(self, feature: str) -> str:
        """Name of the feed that a feature comes from: the declared one, else the feature's own."""
        return self.feature(feature).feed or feature

    def feature(self, name: str) -> FeatureSpec:
        return next(feature for feature in self.features if feature.name == name)

    @field_validator("owner")
    @classmethod
    def _owner_is_reachable(cls, owner: str) -> str:
        if _OWNER.fullmatch(owner) is None:
            raise ValueError(f"{owner!r} is neither an e-mail address nor 'team:<name>'")
        return owner

    @field_validator("features")
    @classmethod
    def _features_differ(cls, features: tuple[FeatureSpec, ...]) -> tuple[FeatureSpec, ...]:
        names = [feature.name for feature in features]
        for position, name in enumerate(names):
            if name in names[:position]:
                raise mistake((position, "name"), f"duplicate feature {name!r}: each name may be declared once", name)
        return features

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        roles = {self.entity_key: "entity_key"}
        others = (("event_time",), self.event_time), (("label", "column"), self.label.column)
        for role, column in (*others, (("label", "observed_at"), self.label.observed_at)):
            if column in roles:
                raise mistake(role, f"column {column!r} is declared as {roles[column]} already", column)
            if column is not None:
                roles[column] = ".".join(role)
        for position, name in enumerate(self.feature_names):
            if name in roles:
                raise mistake(
                    ("features", position, "name"),
                    f"column {name!r} is the {roles[name]} and cannot be a feature too",
                    name,
                )
        for position, name in enumerate(self.evaluation.slices):
            if name not in self.feature_names:
                raise mistake(
                    ("evaluation", "slices", position),
                    f"{name!r} is no feature: choose from {', '.join(self.feature_names)}",
                    name,
                )
        return self

    @model_validator(mode="after")
    def _metrics_are_no_label(self) -> Self:
        for position, metric in enumerate(self.release.metrics):
            if metric.name == self.label.column:
                raise mistake(
                    ("release", "metrics", position, "name"),
                    f"{metric.name!r} is the label: what is fed back under this name is a truth; choose another name",
                    metric.name,
                )
        return self

    @model_validator(mode="after")
    def _feeds_are_declared(self) -> Self:
        for position, feature in enumerate(self.features):
            if feature.feed is not None and feature.feed not in self.feeds:
                raise mistake(
                    ("features", position, "feed"),
                    f"{feature.feed!r} is none of the declared feeds: {', '.join(self.feeds) or 'there are none'}",
                    feature.feed,
                )
        return self

    @model_validator(mode="after")
    def _estimator_fits_task(self) -> Self:
        from sklearn.base import ClassifierMixin  # the estimator brings it in anyway

        where, path = ("training", "estimator"), self.training.estimator
        estimator = import_object(path)
        is_classifier = issubclass(estimator, ClassifierMixin) or hasattr(estimator, "predict_proba")
        if is_classifier and self.task == "regression":
            raise mistake(where, f"{path} is a classifier: a regression needs a regressor", path)
        if not is_classifier and self.task != "regression":
            raise mistake(where, f"{path} is no classifier: {self.task} needs one that gives probabilities", path)
        return self

    @model_validator(mode="after")
    def _gates_fit_task(self) -> Self:
        names = [gate.name for gate in self.gates]
        allowed = metrics_of(self.task)
        for position, gate in enumerate(self.gates):
            where = ("gates", position)
            if gate.name in names[:position]:
                raise mistake(where, f"gates[{position}]: {gate.name!r} is declared twice", gate.name)
            if isinstance(gate, LatencyGate):
                continue
            if gate.metric not in allowed:
                raise mistake(
                    (*where, "metric"),
                    f"gates[{position}].metric: {gate.metric!r} does not fit {self.task}: choose from {', '.join(allowed)}",
                    gate.metric,
                )
            if isinstance(gate, ChampionGate) and not METRICS[gate.metric].is_mean:
                means = [name for name in allowed if METRICS[name].is_mean]
                raise mistake(
                    (*where, "metric"),
                    f"gates[{position}].metric: {gate.metric!r} cannot be paired row by row: choose from {', '.join(means)}",
                    gate.metric,
                )
            if isinstance(gate, LimitGate) and gate.per_slice and not self.evaluation.slices:
                raise mistake(
                    (*where, "per_slice"), f"gates[{position}].per_slice: no evaluation.slices are declared", True
                )
        return self

    @model_validator(mode="after")
    def _monitoring_fits(self) -> Self:
        rules = self.monitoring
        means = [name for name in metrics_of(self.task) if METRICS[name].is_mean and not METRICS[name].higher_is_better]
        if rules.metric is not None and rules.metric not in means:
            raise mistake(
                ("monitoring", "metric"),
                f"{rules.metric!r} is no loss that {self.task} takes row by row: choose from {', '.join(means)}",
                rules.metric,
            )
        if rules.until is not None and rules.until <= self.live_from:
            raise mistake(
                ("monitoring", "until"), f"the history ends before it goes live at {self.live_from}", str(rules.until)
            )
        return self

    @model_validator(mode="after")
    def _task_fits_label(self) -> Self:
        classes, where = self.label.classes, ("label", "classes")
        if classes is None:
            return self
        if self.task == "regression":
            raise mistake(where, "a regression has none", classes)
        if len(set(map(str, classes))) < len(classes) or len(classes) < 2:
            raise mistake(where, f"{list(classes)} must be two or more different classes", classes)
        if self.task == "binary" and len(classes) != 2:
            raise mistake(where, f"binary takes two classes, found {len(classes)}", classes)
        return self
