"""What is written down about every answer and every label: the rows of the prediction log."""

from datetime import datetime
from typing import Literal

import msgspec

Role = Literal["champion", "challenger", "standby", "fallback", "shadow"]
SHADOW: Role = "shadow"


class PredictionRecord(msgspec.Struct, frozen=True, tag_field="kind", tag="prediction", omit_defaults=True, gc=False):
    """One answer of one version, appended before the reply. Unique per (id, role, version).

    What a caller asked and was answered has any role but `shadow`: a challenger's (canary), a standby's in the champion's place, or
    a constant's (`fallback`). A `shadow` was scored beside the champion, after the reply, and answered nobody.

    `features` are the values as received, in the order of the model's contract (`None` where missing); they are empty for a
    request that failed before it was parsed. `output` holds the class probabilities, or one value. `latency_ms` is wall
    clock inside the service. `event_time` is the caller's, or the time of serving where none was sent. A `probe` was asked by
    the platform itself and counts for no monitor and no training. `error` says why there is no answer; of an answer (200), why it
    is not given by the version that should have.
    """

    id: str
    model: str
    version: int
    bundle: str
    release: int
    rollout: str
    role: Role
    event_time: datetime
    served_at: datetime
    entity: str | None = None
    features: tuple[float | str | bool | None, ...] = ()
    imputed: tuple[str, ...] = ()
    out_of_domain: tuple[str, ...] = ()
    output: tuple[float, ...] = ()
    latency_ms: float = 0.0
    status: int = 200
    error: str | None = None
    probe: bool = False


class LabelRecord(msgspec.Struct, frozen=True, tag_field="kind", tag="label", omit_defaults=True, gc=False):
    """A truth that came in: for a prediction id, or for an entity at an event time. A correction has a higher revision."""

    model: str
    name: str
    value: float | str | int | bool
    observed_at: datetime
    received_at: datetime
    id: str | None = None
    entity: str | None = None
    event_time: datetime | None = None
    revision: int = 0


Record = PredictionRecord | LabelRecord
