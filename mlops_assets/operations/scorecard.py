"""The scorecard of a deployment: gathered from its ledger and its live windows, and worded as the lines of a table.

What the figures mean is told in `core/scorecard.py`.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.scorecard import Evidence, scorecard
from mlops_assets.core.scorecard_values import Card, Figure, Scorecard, Target, Unit
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.live_traffic import live_windows
from mlops_assets.operations.stores import Stores

NO_DATA = "no data"
_SIGNS = {">=": "≥", ">": ">", "<": "<"}


@dataclass(frozen=True)
class Line:
    """One figure in words; empty where there is nothing to say."""

    model: str
    measure: str
    measured: str
    target: str
    met: str
    median: str
    worst: str
    rests_on: str
    note: str


def make_scorecard(
    stores: Stores,
    specs: Mapping[str, ModelSpec],
    at: datetime,
    *,
    models: Collection[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Scorecard:
    """The scorecard of all models that are declared or that something is written about, or of these `models`.

    Raises
    ------
    KeyError
        For a model that is neither declared nor in the ledger.
    """
    known = sorted({*specs, *stores.ledger.models()})
    chosen = known if models is None else models
    if strange := sorted(set(chosen) - set(known)):
        raise KeyError(f"nothing is known of {', '.join(strange)}: there are {', '.join(known) or 'no models yet'}")
    return scorecard([_evidence(stores, one, specs.get(one)) for one in chosen], at, since, until)


def lines_of(card: Card) -> tuple[Line, ...]:
    """The figures of a card in words, in their order."""
    return tuple(_line(card.model, one) for one in card.figures)


def _evidence(stores: Stores, model: str, spec: ModelSpec | None) -> Evidence:
    record = stores.ledger.of(model)
    if spec is None:
        return Evidence(record)
    return Evidence(record, tuple(live_windows(spec, stores).values()), Windows.of(spec))


def _line(model: str, one: Figure) -> Line:
    target = "" if one.target is None else _target(one.target, one.unit)
    worst = "" if one.worst is None else f"{_in_words(one.worst, one.unit)} ({one.worst_incident})"
    return Line(
        model=model,
        measure=one.name,
        measured=NO_DATA if one.value is None else _in_words(one.value, one.unit),
        target=target,
        met=_met(one),
        median="" if one.median is None else _in_words(one.median, one.unit),
        worst=worst,
        rests_on=f"{one.events:,} {one.of}" if one.events else "",
        note=one.note,
    )


def _met(one: Figure) -> str:
    if one.target is None or one.value is None:
        return ""
    return "too early" if one.met is None else ("yes" if one.met else "no")


def _target(target: Target, unit: Unit) -> str:
    limit = f"{target.limit / 60:g} min" if unit == "s" else _in_words(target.limit, unit)
    return limit if unit == "share" and target.limit == 1 else f"{_SIGNS[target.sign]} {limit}"


def _in_words(value: float, unit: Unit) -> str:
    match unit:
        case "share":
            # Cut, not rounded: 100 % is said of nothing less. The inner rounding only takes back what binary fractions do.
            return f"{math.floor(round(value * 1e5, 6)) / 1e3:.7g} %"
        case "per 30 days":
            return f"{value:.3g} a month"
        case "windows":
            return f"{value:.3g} windows"
        case "s":
            return _time(value)


def _time(seconds: float) -> str:
    for length, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.3g} s"
