"""Which data a model lives on: source, label, features, limits on their quality, and how gaps are filled."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mlops_assets.core.spec.declaration import Declaration
from mlops_assets.core.spec.values import Duration, LoaderPath, Share

FeatureType = Literal["number", "integer", "boolean", "category"]
NumberStrategy = Literal["mean", "median", "knn"]
CategoryStrategy = Literal["most_frequent", "missing_category"]


class SourceSpec(Declaration):
    """Where the history before going live comes from: a loader function, or a table file.

    A loader is called with `arguments` and returns a DataFrame; a table is a Parquet or CSV path (fsspec URL).
    """

    loader: LoaderPath | None = None
    arguments: dict[str, Any] = Field({})
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


class LabelSpec(Declaration):
    """The column to predict, and how long its values take to be known."""

    column: str
    delay: Duration
    observed_at: str | None = Field(
        None, description="column that says when a label was known; else event time + delay"
    )
    classes: tuple[str | int, ...] | None = Field(
        None, description="the classes in order, the positive one last; learnt from the data if left out"
    )


class FeatureSpec(Declaration):
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
    domain: Literal["open", "closed"] = Field(
        "open", description="closed: a request outside is refused, a row goes to quarantine"
    )
    nullable: bool = True
    impute: NumberStrategy | CategoryStrategy | None = Field(None, description="overrides the model's strategy")
    feed: str | None = Field(None, description="one of the declared feeds; what breaks together is one incident")

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


class QualitySpec(Declaration):
    """Limits on the data that enter the pipeline."""

    max_quarantined_share: Share = 0.02
    min_rows: int = Field(1, ge=1, description="valid rows without which nothing goes on")


class ImputationSpec(Declaration):
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
