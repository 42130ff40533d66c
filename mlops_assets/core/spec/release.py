"""How a gated model reaches the traffic."""

from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from mlops_assets.core.rollout import BreakerLimits
from mlops_assets.core.spec.declaration import Declaration
from mlops_assets.core.spec.values import Duration, Share


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


class ReleaseSpec(Declaration):
    """How a gated model reaches the traffic."""

    strategy: Literal["immediate"] = "immediate"
    confirm_timeout: Duration = Field(
        timedelta(seconds=30), description="wait this long for every live worker to report the release"
    )
    breaker: BreakerSpec = BreakerSpec()
