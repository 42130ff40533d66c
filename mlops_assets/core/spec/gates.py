"""How a fitted model is judged, and what it must hold before it is released."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mlops_assets.core.spec.declaration import Declaration


class EvaluationSpec(Declaration):
    """How a fitted model is judged on the rows held out."""

    slices: tuple[str, ...] = Field((), description="features by whose values the metrics are given too")
    min_slice_rows: int = Field(200, ge=1)
    decision_threshold: float = Field(
        0.5, gt=0, lt=1, description="binary: probability from which the positive class is answered"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1)
    bootstrap_resamples: int = Field(500, ge=50, le=20_000)


class LimitGate(Declaration):
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


class BaselineGate(Declaration):
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


class ChampionGate(Declaration):
    """The candidate, on the champion's own rows, is not worse than it by more than a margin, with confidence."""

    kind: Literal["champion"]
    metric: str
    margin: float = Field(0.0, ge=0, lt=1, description="relative loss that is tolerated (non-inferiority)")
    superior: bool = Field(False, description="the candidate must be better, with confidence; the margin is not used")

    @property
    def name(self) -> str:
        return f"{self.metric}_not_worse_than_champion"

    @property
    def rule(self) -> str:
        """What the gate asks for, in words."""
        if self.superior:
            return f"{self.metric} is better than the champion's on the same rows, with confidence."
        return f"{self.metric} is not worse than the champion's on the same rows by more than {self.margin:.1%}, with confidence."


class LatencyGate(Declaration):
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
