"""Everything one model declares: the values read from its `defs.yaml` or built in Python.

Only declarations and what can be checked from them alone belong here; reading data or fitting anything does not.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails
from sklearn.base import ClassifierMixin

from mlops_assets.core.metrics import METRICS, Task, metrics_of

_DURATION_UNITS = {
    unit: timedelta(seconds=size) for unit, size in (("w", 604_800), ("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|w)", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?\d*\.?\d+\s*")
_OWNER = re.compile(r"team:.+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")  # what Dagster takes for an owner
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*[.:][^\W\d]\w*")


def _read_duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{value!r} is not a duration: write a number and one of s, min, h, d, w, such as '14d' or '36h'"
        )
    try:
        return timedelta(microseconds=round(Decimal(match[1]) * (_DURATION_UNITS[match[2]] // timedelta.resolution)))
    except OverflowError as error:
        raise ValueError(f"{value!r} is too long: at most {timedelta.max.days}d") from error


def format_duration(value: timedelta) -> str:
    """Write a duration the way the YAML does, in the largest unit that divides it."""
    for unit, size in _DURATION_UNITS.items():
        if value >= size and not value % size:
            return f"{value // size}{unit}"
    seconds, rest = divmod(value, timedelta(seconds=1))
    return f"{seconds}.{rest.microseconds:06d}".rstrip("0").rstrip(".") + "s"


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than nothing")
    return value


def _read_time(value: object) -> object:
    if isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        raise ValueError(f"{value!r} is not a time: write ISO 8601 with a time zone, such as 2013-03-01T05:00:00Z")
    return value


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} names no time zone: end it with Z or an offset such as -05:00")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{value.isoformat()} is out of range: UTC's calendar does not hold it") from error


def import_object(path: str) -> Any:
    """Import `package.module.name` (or `package.module:name`); ValueError says which part is missing."""
    if _IMPORT_PATH.fullmatch(path) is None:
        raise ValueError(f"{path!r} is not an import path such as 'package.module.name'")
    module_name, _, attribute = path.replace(":", ".").rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the named module does wrong at import is a mistake in what names it
        raise ValueError(f"{path!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        raise ValueError(
            f"{path!r}: module {module_name!r} has no {attribute!r}{_did_you_mean(attribute, dir(module))}"
        )
    return getattr(module, attribute)


def _did_you_mean(name: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(allowed), n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _estimator_path(path: str) -> str:
    estimator = import_object(path)
    if not (isinstance(estimator, type) and hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        raise ValueError(f"{path!r} is no scikit-learn estimator: it must be a class with fit and get_params")
    return path


def _loader_path(path: str) -> str:
    if not callable(import_object(path)):
        raise ValueError(f"{path!r} is not callable: name a function that returns a pandas DataFrame")
    return path


Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    AfterValidator(_positive),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["14d", "36h"], "description": "a number and s, min, h, d or w"}),
]
AwareDatetime = Annotated[
    datetime,
    BeforeValidator(_read_time),
    AfterValidator(_aware),
    WithJsonSchema({"type": "string", "description": "ISO 8601 with a time zone"}),
]
EstimatorPath = Annotated[str, AfterValidator(_estimator_path)]
LoaderPath = Annotated[str, AfterValidator(_loader_path)]
Share = Annotated[float, Field(ge=0, le=1)]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]

FeatureType = Literal["number", "integer", "boolean", "category"]
NumberStrategy = Literal["mean", "median", "knn"]
CategoryStrategy = Literal["most_frequent", "missing_category"]


def _mistake(where: tuple[str | int, ...], what: str, given: object) -> ValidationError:
    """An error at a field below the one that is being validated; pydantic puts the path to that one before it."""
    # pydantic's own kind of error, because Dagster makes it anew by the kind's name when it adds file and line
    details = InitErrorDetails(type="value_error", loc=where, input=given, ctx={"error": ValueError(what)})
    return ValidationError.from_exception_data("declaration", [details])


class _Declaration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, value: object) -> object:
        if isinstance(value, dict):
            for name, given in value.items():
                if name not in cls.model_fields:
                    raise _mistake(
                        (str(name),),
                        f"Extra inputs are not permitted; allowed are {', '.join(cls.model_fields)}",
                        given,
                    )
        return value


class SourceSpec(_Declaration):
    """Where the history before going live comes from: a loader function, or a table file.

    A loader is called with `arguments` and returns a DataFrame; a table is a Parquet or CSV path (fsspec URL).
    """

    loader: LoaderPath | None = None
    arguments: dict[str, Any] = {}
    table: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.loader is None) == (self.table is None):
            raise ValueError(
                "declare exactly one of 'loader' (import path of a function) and 'table' (Parquet or CSV path)"
            )
        if self.table is not None and self.arguments:
            raise ValueError("'arguments' go to a loader; a table takes none")
        return self


class LabelSpec(_Declaration):
    """The column to predict, and how long its values take to be known."""

    column: str
    delay: Duration
    observed_at: str | None = Field(
        None, description="column that says when a label was known; else event time + delay"
    )
    classes: tuple[str | int, ...] | None = Field(
        None, description="the classes in order, the positive one last; learnt from the data if left out"
    )


class FeatureSpec(_Declaration):
    """One input of the model: what its values look like, and what to do with a value that is not like that."""

    name: str = Field(min_length=1)
    type: FeatureType
    description: str = ""
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] | None = Field(
        None, min_length=1, description="known levels; learnt in training if left out"
    )
    domain: Literal["open", "closed"] = Field("open", description="closed: offline, a row outside goes to quarantine")
    nullable: bool = True
    impute: NumberStrategy | CategoryStrategy | None = Field(None, description="overrides the model's strategy")

    @property
    def is_category(self) -> bool:
        return self.type == "category"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"range upside down: minimum {self.minimum:g} is above maximum {self.maximum:g}")
        if self.is_category and (self.minimum is not None or self.maximum is not None):
            raise ValueError("a category has no minimum or maximum: list its 'categories'")
        if not self.is_category and self.categories is not None:
            raise ValueError(f"a {self.type} has no 'categories': give 'minimum' and 'maximum'")
        if self.categories is not None and len(set(self.categories)) < len(self.categories):
            raise ValueError(f"duplicate category in {list(self.categories)}")
        if (
            self.domain == "closed"
            and self.type != "boolean"
            and self.minimum is None
            and self.maximum is None
            and self.categories is None
        ):
            raise ValueError("a closed domain needs 'minimum', 'maximum' or 'categories'")
        allowed = ("most_frequent", "missing_category") if self.is_category else ("mean", "median", "knn")
        if self.impute is not None and self.impute not in allowed:
            raise ValueError(f"impute {self.impute!r} does not fit a {self.type}: choose one of {', '.join(allowed)}")
        return self


class QualitySpec(_Declaration):
    """Limits on the data that enter the pipeline."""

    max_quarantined_share: Share = 0.02
    min_rows: int = Field(1, ge=1, description="valid rows without which nothing goes on")


class ImputationSpec(_Declaration):
    """How missing values are filled. Rates are shares of the training rows."""

    alarm_above: Share = Field(0.30, description="missing rate that raises the alarm and switches the strategy")
    drop_above: Share = Field(0.95, description="missing rate above which a feature is dropped, visibly")
    number: NumberStrategy = "median"
    category: CategoryStrategy = "missing_category"
    number_above_alarm: NumberStrategy = "knn"
    category_above_alarm: CategoryStrategy = "missing_category"
    neighbours: int = Field(5, ge=1)
    max_donors: int = Field(2000, ge=1, le=2000, description="rows kept for KNN")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.alarm_above > self.drop_above:
            raise ValueError(f"alarm_above {self.alarm_above:g} is above drop_above {self.drop_above:g}")
        return self


class StepSpec(_Declaration):
    """A scikit-learn class by import path, with its parameters."""

    estimator: EstimatorPath
    parameters: dict[str, Any] = {}

    @model_validator(mode="after")
    def _parameters_exist(self) -> Self:
        accepted = inspect.signature(import_object(self.estimator)).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
            return self
        for name, value in self.parameters.items():
            if name not in accepted:
                raise _mistake(
                    ("parameters", name),
                    f"{self.estimator} has no such parameter: choose from {', '.join(accepted)}",
                    value,
                )
        return self


class TrainingSpec(StepSpec):
    """What is fitted, on which rows."""

    number_transformer: StepSpec | None = Field(
        None, description="applied to the numeric features; none passes them on"
    )
    category_encoder: StepSpec | None = Field(None, description="applied to the categories; one-hot if left out")
    native_categories: bool = Field(
        False, description="hand the encoded categories to a HistGradientBoosting estimator as its own categories"
    )
    window: Duration | None = Field(None, description="rolling window that ends at as_of; from 'start' on if left out")
    start: AwareDatetime | None = Field(None, description="no earlier row is used for training")
    holdout: Duration = Field(description="last part of the window, kept out of the fit that the gates judge")
    refit: bool = Field(True, description="fit again on the whole window after the gates")
    seed: int = Field(0, ge=0, le=2**32 - 1)

    @field_validator("number_transformer", "category_encoder")
    @classmethod
    def _transforms(cls, step: StepSpec | None) -> StepSpec | None:
        if step is not None and not hasattr(import_object(step.estimator), "transform"):
            raise _mistake(("estimator",), f"{step.estimator} has no transform method", step.estimator)
        return step

    @model_validator(mode="after")
    def _predicts(self) -> Self:
        estimator = import_object(self.estimator)
        if not hasattr(estimator, "predict"):
            raise _mistake(("estimator",), f"{self.estimator} has no predict method", self.estimator)
        if self.native_categories and "categorical_features" not in inspect.signature(estimator).parameters:
            raise _mistake(
                ("native_categories",),
                f"{self.estimator} takes no categorical_features: use a HistGradientBoosting estimator, or leave it out",
                self.native_categories,
            )
        return self

    @model_validator(mode="after")
    def _holds_out_by_time_only(self) -> Self:
        """Estimators that stop early judge themselves on rows drawn at random, which knows the future."""
        known = inspect.signature(import_object(self.estimator)).parameters
        if "early_stopping" in known:
            switch, off = "early_stopping", False
        elif "n_iter_no_change" in known and "validation_fraction" in known:
            switch, off = "n_iter_no_change", None
        else:
            return self
        if self.parameters.get(switch, off) != off:
            raise _mistake(
                ("parameters", switch),
                f"{self.estimator} would stop early on rows held out at random, and time order matters: leave it out",
                self.parameters[switch],
            )
        return self

    @model_validator(mode="after")
    def _holdout_fits(self) -> Self:
        if self.window is not None and self.holdout >= self.window:
            raise _mistake(
                ("holdout",),
                f"{format_duration(self.holdout)} leaves nothing of the window {format_duration(self.window)} to train on",
                format_duration(self.holdout),
            )
        return self


class EvaluationSpec(_Declaration):
    """How a fitted model is judged on the rows held out."""

    slices: tuple[str, ...] = Field((), description="features by whose values the metrics are given too")
    min_slice_rows: int = Field(200, ge=1)
    decision_threshold: float = Field(
        0.5, gt=0, lt=1, description="binary: probability from which the positive class is answered"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1)
    bootstrap_resamples: int = Field(500, ge=50, le=20_000)


class LimitGate(_Declaration):
    """A metric on the held-out rows against a fixed limit."""

    kind: Literal["limit"] = "limit"
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    per_slice: bool = Field(False, description="every slice with enough rows must hold the limit")

    @property
    def name(self) -> str:
        return f"{self.metric}_{'at_least' if self.at_least is not None else 'at_most'}{'_per_slice' if self.per_slice else ''}"

    @property
    def rule(self) -> str:
        """What the gate asks for, in words."""
        limit = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        return f"{self.metric} is {limit} {'on every slice of' if self.per_slice else 'on'} the held-out rows."

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a limit gate takes exactly one of 'at_least' and 'at_most'")
        return self


class BaselineGate(_Declaration):
    """The model must be better than the trivial one (base rate, class frequencies, median) by a relative margin."""

    kind: Literal["baseline"]
    metric: str
    by: float = Field(0.0, ge=0, lt=1, description="relative improvement asked for")

    @property
    def name(self) -> str:
        return f"{self.metric}_beats_baseline"

    @property
    def rule(self) -> str:
        """What the gate asks for, in words."""
        return f"{self.metric} is better than the trivial model's by more than {self.by:.1%}."


class ChampionGate(_Declaration):
    """The candidate, on the champion's own rows, is not worse than it by more than a margin, with confidence."""

    kind: Literal["champion"]
    metric: str
    margin: float = Field(0.0, ge=0, lt=1, description="relative loss that is tolerated (non-inferiority)")

    @property
    def name(self) -> str:
        return f"{self.metric}_not_worse_than_champion"

    @property
    def rule(self) -> str:
        """What the gate asks for, in words."""
        return f"{self.metric} is not worse than the champion's on the same rows by more than {self.margin:.1%}, with confidence."


class LatencyGate(_Declaration):
    """Time to answer one row with the scorer that will be served."""

    kind: Literal["latency"]
    at_most_ms: float = Field(gt=0)

    @property
    def name(self) -> str:
        return "latency_at_most"

    @property
    def rule(self) -> str:
        """What the gate asks for, in words."""
        return f"The median single row is answered within {self.at_most_ms:g} ms."


def _gate_kind(value: object) -> object:
    return {"kind": "limit", **value} if isinstance(value, dict) else value


GateSpec = Annotated[
    Annotated[LimitGate | BaselineGate | ChampionGate | LatencyGate, Field(discriminator="kind")],
    BeforeValidator(_gate_kind),
]


class ReleaseSpec(_Declaration):
    """How a gated model reaches the traffic."""

    strategy: Literal["immediate"] = "immediate"
    confirm_timeout: Duration = Field(
        timedelta(seconds=30), description="wait this long for every live worker to report the release"
    )


class ConfirmSpec(_Declaration):
    """How often a performance alarm must come back before the model is called unhealthy: the newest window and k of the last n."""

    alarms: int = Field(2, ge=1)
    of: int = Field(5, ge=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.alarms > self.of:
            raise ValueError(f"{self.alarms} alarms of the last {self.of} windows can never come: lower 'alarms'")
        return self


class MonitoringSpec(_Declaration):
    """How live traffic is watched: in windows of event time, each of which gets a verdict on its data and on the model."""

    window: Literal["hour", "day", "week"] = Field("day", description="a week begins on Monday")
    timezone: str = Field("UTC", description="where days and weeks begin at midnight; hours are always UTC's")
    until: AwareDatetime | None = Field(
        None, description="end of a finished history; traffic goes on for ever if left out"
    )
    min_rows: int = Field(50, ge=10, description="rows below which a window's verdict is 'insufficient data'")
    metric: str | None = Field(
        None, description="the loss that decides, a mean over rows; brier, or mae for a regression, if left out"
    )
    floor: float = Field(0.10, ge=0, lt=10, description="relative rise of the loss below which nothing has decayed")
    confirm: ConfirmSpec = ConfirmSpec()
    min_coverage: Share = Field(
        0.5, description="share of the matured predictions that must have labels, else the label feed is reported"
    )

    @field_validator("timezone")
    @classmethod
    def _timezone_exists(cls, timezone: str) -> str:
        if timezone not in available_timezones():
            raise ValueError(
                f"{timezone!r} is no time zone{_did_you_mean(timezone, available_timezones())}; write one such as Europe/Berlin"
            )
        return timezone

    @model_validator(mode="after")
    def _hours_are_utc(self) -> Self:
        if self.window == "hour" and self.timezone != "UTC":
            raise _mistake(("timezone",), "hours are those of UTC: leave 'timezone' out, or watch days", self.timezone)
        return self


class ResponseSpec(_Declaration):
    """Who is called when the platform cannot help itself."""

    notify: tuple[str, ...] = ()


class ModelSpec(_Declaration):
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
                raise _mistake((position, "name"), f"duplicate feature {name!r}: each name may be declared once", name)
        return features

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        roles = {self.entity_key: "entity_key"}
        others = (("event_time",), self.event_time), (("label", "column"), self.label.column)
        for role, column in (*others, (("label", "observed_at"), self.label.observed_at)):
            if column in roles:
                raise _mistake(role, f"column {column!r} is declared as {roles[column]} already", column)
            if column is not None:
                roles[column] = ".".join(role)
        for position, name in enumerate(self.feature_names):
            if name in roles:
                raise _mistake(
                    ("features", position, "name"),
                    f"column {name!r} is the {roles[name]} and cannot be a feature too",
                    name,
                )
        for position, name in enumerate(self.evaluation.slices):
            if name not in self.feature_names:
                raise _mistake(
                    ("evaluation", "slices", position),
                    f"{name!r} is no feature: choose from {', '.join(self.feature_names)}",
                    name,
                )
        return self

    @model_validator(mode="after")
    def _estimator_fits_task(self) -> Self:
        where, path = ("training", "estimator"), self.training.estimator
        estimator = import_object(path)
        is_classifier = issubclass(estimator, ClassifierMixin) or hasattr(estimator, "predict_proba")
        if is_classifier and self.task == "regression":
            raise _mistake(where, f"{path} is a classifier: a regression needs a regressor", path)
        if not is_classifier and self.task != "regression":
            raise _mistake(where, f"{path} is no classifier: {self.task} needs one that gives probabilities", path)
        return self

    @model_validator(mode="after")
    def _gates_fit_task(self) -> Self:
        names = [gate.name for gate in self.gates]
        allowed = metrics_of(self.task)
        for position, gate in enumerate(self.gates):
            where = ("gates", position)
            if gate.name in names[:position]:
                raise _mistake(where, f"gates[{position}]: {gate.name!r} is declared twice", gate.name)
            if isinstance(gate, LatencyGate):
                continue
            if gate.metric not in allowed:
                raise _mistake(
                    (*where, "metric"),
                    f"gates[{position}].metric: {gate.metric!r} does not fit {self.task}: choose from {', '.join(allowed)}",
                    gate.metric,
                )
            if isinstance(gate, ChampionGate) and not METRICS[gate.metric].is_mean:
                means = [name for name in allowed if METRICS[name].is_mean]
                raise _mistake(
                    (*where, "metric"),
                    f"gates[{position}].metric: {gate.metric!r} cannot be paired row by row: choose from {', '.join(means)}",
                    gate.metric,
                )
            if isinstance(gate, LimitGate) and gate.per_slice and not self.evaluation.slices:
                raise _mistake(
                    (*where, "per_slice"), f"gates[{position}].per_slice: no evaluation.slices are declared", True
                )
        return self

    @model_validator(mode="after")
    def _monitoring_fits(self) -> Self:
        rules = self.monitoring
        means = [name for name in metrics_of(self.task) if METRICS[name].is_mean and not METRICS[name].higher_is_better]
        if rules.metric is not None and rules.metric not in means:
            raise _mistake(
                ("monitoring", "metric"),
                f"{rules.metric!r} is no loss that {self.task} takes row by row: choose from {', '.join(means)}",
                rules.metric,
            )
        if rules.until is not None and rules.until <= self.live_from:
            raise _mistake(
                ("monitoring", "until"), f"the history ends before it goes live at {self.live_from}", str(rules.until)
            )
        return self

    @model_validator(mode="after")
    def _task_fits_label(self) -> Self:
        classes, where = self.label.classes, ("label", "classes")
        if classes is None:
            return self
        if self.task == "regression":
            raise _mistake(where, "a regression has none", classes)
        if len(set(map(str, classes))) < len(classes) or len(classes) < 2:
            raise _mistake(where, f"{list(classes)} must be two or more different classes", classes)
        if self.task == "binary" and len(classes) != 2:
            raise _mistake(where, f"binary takes two classes, found {len(classes)}", classes)
        return self
