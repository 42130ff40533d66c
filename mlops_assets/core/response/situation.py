"""What a decision may look at, and what it finds: values alone."""

from datetime import datetime

import msgspec

from mlops_assets.core.ledger import Severity
from mlops_assets.core.monitoring.health import DataHealth, Former, ModelHealth

LOOK_BACK = 60  # windows that a situation holds, so that incidents can be closed and confirmed
FEED, DRIFT, PERFORMANCE, GATES, TRAFFIC = "feed:", "drift", "performance", "gates", "traffic"
SERVICE, RUNS, SIGNS = "service", "run:", "monitor:"


class Champion(msgspec.Struct, frozen=True):
    """The version that answers: what it was trained on, which features it takes for missing, and whether a constant stands in."""

    version: int
    trained_until: datetime
    training_rows: int
    masked: tuple[str, ...] = ()
    fallen_back: bool = False


class Signal(msgspec.Struct, frozen=True):
    """One thing that the monitor says of itself or of what feeds it."""

    trouble: str
    reason: str
    grave: bool


class Situation(msgspec.Struct, frozen=True):
    """All that a decision may look at, as it was known at `now`, the end of the newest sealed window.

    Attributes
    ----------
    data, model
        The verdicts on the last windows up to `window`, oldest first.
    fresh_rows
        Labelled rows, by sound feeds, from after the champion's training.
    rivals
        Registered versions asked again on the labelled rows of the last windows, the best first; None while nobody has asked.
    on_trial
        The version that is tried beside the champion; None where none is.
    """

    window: str
    now: datetime
    champion: Champion | None
    data: tuple[DataHealth, ...]
    model: tuple[ModelHealth, ...]
    fresh_rows: int
    rivals: tuple[Former, ...] | None = None
    signals: tuple[Signal, ...] = ()
    on_trial: int | None = None


class Finding(msgspec.Struct, frozen=True):
    """Something is wrong, and what is probably the cause. `level` is the loss that was to be expected, where it is about that."""

    cause: str
    title: str
    severity: Severity
    window: str
    began: datetime
    evidence: tuple[str, ...]
    features: tuple[str, ...] = ()
    level: float | None = None
