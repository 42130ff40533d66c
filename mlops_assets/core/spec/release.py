"""How a gated model reaches the traffic."""

from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from mlops_assets.core.rollout import BreakerLimits
from mlops_assets.core.spec.declaration import Declaration, mistake
from mlops_assets.core.spec.values import Duration, Identifier, Share

RESERVED = ("quality", "loss", "errors", "latency")  # names of tests that a business metric cannot have


class BreakerSpec(Declaration):
    """When a worker asks a version no more, at once and without waiting for anybody; another answers instead.

    A champion is stood in for by the standby, then by the last good version, then by the constant; a challenger by the champion.
    Changes come into force with the next release plan.
    """

    failed: Share = Field(
        0.5, description="share of the last requests above which it is asked no more: those that it failed to answer"
    )
    slow: Share = Field(0.5, description="and those that took it longer than latency_ms to score")
    latency_ms: float | None = Field(
        None, gt=0, description="milliseconds in which a request must be scored; none is too slow if left out"
    )
    window: int = Field(50, ge=1, le=10_000, description="requests that the shares are of, in one worker")
    min_requests: int = Field(10, ge=1, description="requests before anything is concluded")
    open_for: Duration = Field(
        timedelta(seconds=5), description="until it is tried again; doubled by each trial that fails, up to sixteenfold"
    )
    probes: int = Field(3, ge=1, description="requests that it must answer well in a row when it is tried again")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.min_requests > self.window:
            raise ValueError(
                f"{self.min_requests} requests are never among the last {self.window}: lower 'min_requests'"
            )
        return self

    @property
    def limits(self) -> BreakerLimits:
        """As a release plan carries them."""
        return BreakerLimits(
            failed=self.failed,
            slow=self.slow,
            latency_ms=self.latency_ms,
            window=self.window,
            min_requests=self.min_requests,
            open_s=self.open_for.total_seconds(),
            probes=self.probes,
        )


def _require_room(least: int, most: int) -> None:
    if most <= least:
        raise ValueError(
            f"a trial of at least {least} and at most {most} samples cannot decide anything: raise max_samples"
        )


class ShadowSpec(Declaration):
    """The challenger is scored beside the champion and answers nobody: both are compared on the same requests."""

    share: float = Field(1.0, gt=0, le=1, description="of the entities, for which it is scored")
    min_samples: int = Field(200, ge=1, description="labelled pairs of answers before anything is concluded")
    max_samples: int = Field(50_000, ge=2, description="labelled pairs at which it is inconclusive: the champion stays")
    patience: Duration = Field(
        timedelta(days=28), description="event time after which it is inconclusive, such as where no labels come"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _require_room(self.min_samples, self.max_samples)
        return self


class CanarySpec(Declaration):
    """The challenger answers a share of the entities, always the same ones; it grows as long as nothing speaks against it."""

    shares: tuple[float, ...] = Field((0.05, 0.25, 0.5), min_length=1, description="of the entities, rising, below 1")
    min_samples: int = Field(
        100, ge=1, description="labelled answers of the challenger at each share before the next step"
    )
    max_samples: int = Field(50_000, ge=2, description="labelled entities of both at which it is inconclusive")
    patience: Duration = Field(timedelta(days=28), description="event time at one share after which it is inconclusive")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _require_room(self.min_samples, self.max_samples)
        rising = all(low < high for low, high in zip(self.shares, self.shares[1:], strict=False))
        if not rising or not self.shares[0] > 0 or not self.shares[-1] < 1:
            raise mistake(
                ("shares",), "shares must rise, and lie between 0 and 1: both must answer somebody", self.shares
            )
        return self


class BusinessMetric(Declaration):
    """A value that callers send as feedback under this name; its mean must not be worse where the challenger answers."""

    name: Identifier
    better: Literal["larger", "smaller"] = "larger"
    low: float = Field(0.0, description="values below count as this")
    high: float = Field(1.0, description="values above count as this")
    usual: float | None = Field(None, description="about what its mean is; the middle of the bounds if left out")
    matters: float = Field(gt=0, description="the smallest difference of the means that matters, in the metric's unit")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.matters < self.high - self.low:
            raise mistake(
                ("matters",), f"{self.matters} must be less than from {self.low} to {self.high}", self.matters
            )
        if self.usual is not None and not self.low <= self.usual <= self.high:
            raise mistake(("usual",), f"{self.usual} does not lie from {self.low} to {self.high}", self.usual)
        return self


class ReleaseSpec(Declaration):
    """How a gated model reaches the traffic."""

    strategy: Literal["immediate", "shadow", "canary", "shadow-then-canary"] = Field(
        "immediate", description="at once, or after a trial beside the champion"
    )
    shadow: ShadowSpec = ShadowSpec()
    canary: CanarySpec = CanarySpec()
    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="chance of ending a trial, or rolling back, where the challenger is no worse"
    )
    beta: float = Field(0.05, gt=0, lt=0.5, description="chance of promoting one that is worse by what matters")
    odds_ratio: float = Field(
        1.5, gt=1, description="how many times the champion's errors matter: odds in pairs, rates of a canary"
    )
    loss_rise: float = Field(0.1, gt=0, lt=5, description="relative rise of the headline loss that matters, in shadow")
    slow_ratio: float | None = Field(
        3.0,
        gt=1,
        description="how many times as many answers slower than the champion's 95th percentile matter; null asks nobody",
    )
    metrics: tuple[BusinessMetric, ...] = ()
    bake: Duration = Field(
        timedelta(days=7),
        description="event time after the promotion in which the former champion stays to compare with",
    )
    confirm_timeout: Duration = Field(
        timedelta(seconds=30), description="wait this long for every live worker to report the release"
    )
    breaker: BreakerSpec = BreakerSpec()

    @property
    def has_canary(self) -> bool:
        return self.strategy in ("canary", "shadow-then-canary")

    @model_validator(mode="after")
    def _metrics_fit(self) -> Self:
        names = [one.name for one in self.metrics]
        for position, name in enumerate(names):
            if name in names[:position] or name in RESERVED:
                raise mistake(("metrics", position, "name"), f"{name!r} is taken already: choose another one", name)
        if names and not self.has_canary:
            raise mistake(
                ("metrics",), f"{self.strategy} compares none: they need a canary, which answers callers", names
            )
        return self
