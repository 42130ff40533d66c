"""What a worker answers from, as `GET /v1/models` tells it."""

from datetime import datetime

import msgspec

from mlops_assets.serving.state import LiveModel


class BesideAnswer(msgspec.Struct):
    """Who is loaded beside a champion, in which place of the plan."""

    place: str
    role: str
    version: int
    bundle: str
    breaker: str


class LiveModelAnswer(msgspec.Struct):
    """One entry of `GET /v1/models`."""

    model: str
    task: str
    version: int
    release: int
    role: str
    bundle: str
    released_at: datetime
    loaded_at: datetime
    label: str
    classes: tuple[str | int, ...]
    compiled: bool
    masked: tuple[str, ...]
    retired: str | None
    breaker: str
    beside: list[BesideAnswer]
    refused: dict[str, str]


class LiveModelsAnswer(msgspec.Struct):
    """What this worker answers from, and by model why its newest release was not loaded."""

    worker: str
    models: list[LiveModelAnswer]
    errors: dict[str, str]


def describe(live: LiveModel) -> LiveModelAnswer:
    """A model as `GET /v1/models` shows it."""
    manifest, plan = live.manifest, live.plan
    return LiveModelAnswer(
        model=manifest.model,
        task=manifest.task,
        version=manifest.version,
        release=plan.release,
        role=live.role,
        bundle=live.bundle,
        released_at=plan.decided_at,
        loaded_at=live.loaded_at,
        label=manifest.label,
        classes=manifest.classes,
        compiled=manifest.uncompiled is None,
        masked=plan.masked,
        retired=plan.retired,
        breaker=live.breaker.state,
        beside=[
            BesideAnswer(place, one.role, one.manifest.version, one.bundle, one.breaker.state)
            for place, one in live.beside.loaded.items()
        ],
        refused={str(place): why for place, why in live.beside.refused.items()},
    )
