"""What is fitted, on which rows. How the fit is judged does not belong here."""

import inspect
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from mlops_assets.core.spec.declaration import Declaration, mistake
from mlops_assets.core.spec.values import AwareDatetime, Duration, EstimatorPath, format_duration, import_object


class StepSpec(Declaration):
    """A scikit-learn class by import path, with its parameters."""

    estimator: EstimatorPath
    parameters: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _parameters_exist(self) -> Self:
        accepted = inspect.signature(import_object(self.estimator)).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
            return self
        for name, value in self.parameters.items():
            if name not in accepted:
                raise mistake(
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
            raise mistake(("estimator",), f"{step.estimator} has no transform method", step.estimator)
        return step

    @model_validator(mode="after")
    def _predicts(self) -> Self:
        estimator = import_object(self.estimator)
        if not hasattr(estimator, "predict"):
            raise mistake(("estimator",), f"{self.estimator} has no predict method", self.estimator)
        if self.native_categories and "categorical_features" not in inspect.signature(estimator).parameters:
            raise mistake(
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
            raise mistake(
                ("parameters", switch),
                f"{self.estimator} would stop early on rows held out at random, and time order matters: leave it out",
                self.parameters[switch],
            )
        return self

    @model_validator(mode="after")
    def _holdout_fits(self) -> Self:
        if self.window is not None and self.holdout >= self.window:
            raise mistake(
                ("holdout",),
                f"{format_duration(self.holdout)} leaves nothing of the window {format_duration(self.window)} to train on",
                format_duration(self.holdout),
            )
        return self
