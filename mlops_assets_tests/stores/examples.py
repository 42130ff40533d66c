"""Release plans and records that differ by a number; light to import for the processes that tests start."""

from datetime import UTC, datetime, timedelta

import msgspec

from mlops_assets.core.records import LabelRecord, PredictionRecord
from mlops_assets.core.rollout import Release, ReleasePlan

NOON = datetime(2013, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)


def plan(release: int, model: str = "flight_delay", **changes) -> ReleasePlan:
    base = ReleasePlan(
        model=model,
        release=release,
        previous=release - 1,
        rollout="r-1",
        salt="salt",
        champion=Release(release, f"sha256:{release:064x}"),
        challenger=None,
        standby=None,
        last_good=None,
        fallback_value=0.24,
        withdrawn=(),
        reason="the gates passed",
        decided_by="user:test",
        decided_at=NOON,
        as_of=NOON,
    )
    return msgspec.structs.replace(base, **changes)


def prediction(n: int = 0, **changes) -> PredictionRecord:
    base = PredictionRecord(
        id=f"request-{n:06d}",
        model="flight_delay",
        version=12,
        bundle="sha256:" + "ab" * 32,
        release=7,
        rollout="r-1",
        role="champion",
        event_time=NOON,
        served_at=NOON + timedelta(seconds=n),
        entity="N14228",
        features=(1.5, None, "EWR", True, 39.02),
        imputed=("temp",),
        output=(0.25, 0.75),
        latency_ms=0.21,
    )
    return msgspec.structs.replace(base, **changes)


def label(n: int = 0, **changes) -> LabelRecord:
    base = LabelRecord("flight_delay", "late", 1, NOON, NOON + timedelta(hours=n), id=f"request-{n:06d}")
    return msgspec.structs.replace(base, **changes)
