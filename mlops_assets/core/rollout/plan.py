"""Release plans: which versions of a model are in service, in which role, and by which limits. Values only.

The next plan is the business of `steps.py` and `trials.py`; storing and publishing plans that of `stores/releases.py`.
"""

from datetime import datetime
from typing import Literal

import msgspec


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One registered version and the content hash ("sha256:...") of the bundle that serves it."""

    version: int
    bundle: str


class Challenger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version on trial: scored beside the champion (shadow) or answering in its place (canary), for a share of the entities."""

    version: int
    bundle: str
    mode: Literal["shadow", "canary"]
    share: float


class Standby(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The former champion, kept loaded until an event time."""

    version: int
    bundle: str
    until: datetime


class BreakerLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """When a worker asks a version no more, and when again; declared as `release.breaker`.

    Attributes
    ----------
    failed, slow
        Shares of the last `window` requests to the version above which it is asked no more: those that it failed (an error, or
        no finite number), and those whose scoring took longer than `latency_ms` (none are where that is None).
    min_requests
        Requests before anything is concluded.
    open_s
        Seconds until it is tried again. Each trial that fails doubles them, up to sixteenfold.
    probes
        Requests that it must answer well in a row, when it is tried again.
    """

    failed: float = 0.5
    slow: float = 0.5
    latency_ms: float | None = None
    window: int = 50
    min_requests: int = 10
    open_s: float = 5.0
    probes: int = 3


class ReleasePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One immutable step in a model's service history, numbered from 1; `previous` is 0 for the first.

    Attributes
    ----------
    rollout
        What this plan goes back to: the decision, or the release of a candidate. A plan is made once for each.
    last_good
        The version to go back to: the last that served and was neither withdrawn nor put in service without being judged.
    masked
        Features whose received values are taken for missing.
    fallen_back
        Answers are `fallback_value`, whatever was asked.
    retired
        Why the model is out of service; None while it is not.
    forced
        The champion was put in service without passing the gates.
    breaker
        When a worker asks a version no more; the defaults where None.
    """

    model: str
    release: int
    previous: int
    rollout: str
    salt: str
    champion: Release
    challenger: Challenger | None
    standby: Standby | None
    last_good: Release | None
    fallback_value: float | str | int | None
    withdrawn: tuple[int, ...]
    reason: str
    decided_by: str
    decided_at: datetime
    as_of: datetime
    masked: tuple[str, ...] = ()
    fallen_back: bool = False
    retired: str | None = None
    forced: bool = False
    breaker: BreakerLimits | None = None


class Entrant(msgspec.Struct, frozen=True):
    """A version that comes into service, with what its manifest says: features, constant answer, and how recent it is."""

    release: Release
    features: tuple[str, ...]
    fallback_value: float | str | int | None
    as_of: datetime


class Origin(msgspec.Struct, frozen=True):
    """Where a plan comes from: the decision it carries out, why, by whom, and when by the wall clock."""

    rollout: str
    reason: str
    decided_by: str
    decided_at: datetime
