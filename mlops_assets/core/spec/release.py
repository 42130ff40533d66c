"""How a gated model reaches the traffic."""

from datetime import timedelta
from typing import Literal

from pydantic import Field

from mlops_assets.core.spec.declaration import Declaration
from mlops_assets.core.spec.values import Duration


class ReleaseSpec(Declaration):
    """How a gated model reaches the traffic."""

    strategy: Literal["immediate"] = "immediate"
    confirm_timeout: Duration = Field(
        timedelta(seconds=30), description="wait this long for every live worker to report the release"
    )
