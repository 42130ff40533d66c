"""What a scorecard says: figures beside their targets. How they come about is told in `scorecard.py`."""

from datetime import datetime
from typing import Literal

import msgspec

Unit = Literal["share", "per 30 days", "s", "windows"]

ALL_MODELS = "all models"


class Target(msgspec.Struct, frozen=True):
    """What a value should be: `sign` and `limit`, in the unit of its figure."""

    sign: Literal[">=", ">", "<"]
    limit: float

    def is_met_by(self, value: float) -> bool:
        if self.sign == "<":
            return value < self.limit
        return value > self.limit or (self.sign == ">=" and value == self.limit)


AVAILABILITY = Target(">=", 0.9995)
VIOLATIONS = Target("<", 1.0)
DETECT_S = Target("<", 300.0)
MITIGATE_S = Target("<", 900.0)
SAFE_RELEASES = Target(">=", 1.0)
AUTOMATED = Target(">", 0.8)


class Figure(msgspec.Struct, frozen=True):
    """One measure.

    Attributes
    ----------
    value
        A share, a rate or a mean; None where no event was seen.
    events, of
        On how many events of which kind it rests.
    met
        None where there is no target or no value, or where it is too early to tell.
    median, worst, worst_incident
        Of a duration: the middle one, the longest, and the incident that took so long.
    note
        What a reader must know of it to read it rightly.
    """

    name: str
    value: float | None
    unit: Unit
    events: int
    of: str
    target: Target | None = None
    met: bool | None = None
    median: float | None = None
    worst: float | None = None
    worst_incident: str | None = None
    note: str = ""


class Card(msgspec.Struct, frozen=True):
    """The figures of one model, or of all together.

    `undated` counts incidents, decisions and releases without an event time: a period has no place for them and leaves them out.
    """

    model: str
    figures: tuple[Figure, ...]
    undated: int = 0


class Scorecard(msgspec.Struct, frozen=True):
    """Made `at` (by the wall clock), of a period of event time: from `since` to `until`, exclusive; None without such a bound."""

    at: datetime
    since: datetime | None
    until: datetime | None
    overall: Card
    models: tuple[Card, ...]
