"""Looking at what the monitors have judged since the last time, window by window, and writing down what follows.

What follows is decided in `core/response`; carrying it out is the business of `carry_out.py`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from mlops_assets.core.ledger import Decided, Fact, Opened, Record
from mlops_assets.core.live_traffic import LiveWindow
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.response import SIGNS, Response, Signal, Situation, respond
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.live_traffic import live_windows
from mlops_assets.operations.readings import DATA_HEALTH, Readings
from mlops_assets.operations.respond import entries_of, situation
from mlops_assets.operations.rivals import rivals
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.watching import watch_monitor

MOST_WINDOWS = 100


@dataclass(frozen=True)
class Looked:
    """What a look came to.

    Attributes
    ----------
    window
        The newest one that was looked at; None where nothing has been judged yet.
    decision
        What is to be done about it, as far as this look says.
    stamp
        What the look was based on: handed to the next one, it keeps that from asking the rivals again in vain.
    """

    window: str | None = None
    decision: Decided | None = None
    stamp: str = ""


def look(
    spec: ModelSpec,
    stores: Stores,
    clock: Callable[[], datetime],
    actor: str,
    *,
    before: str = "",
    most: int = MOST_WINDOWS,
) -> Looked:
    """Look at every window that was judged since the last decision, oldest first, and again at the newest.

    Of each window the incidents are written down; what asks for work is decided at the newest only. The same is written once,
    however often and by however many it is looked at.

    Parameters
    ----------
    before
        The stamp of the last look; without it the same comes out, at the cost of asking the rivals once more.
    most
        Windows of one look; the rest is for the next.
    """
    live = live_windows(spec, stores)
    newest = _newest_judged(spec, stores, live)
    if newest is None:
        return Looked()
    last = max((one.what.window for one in stores.ledger.of(spec.name).decisions if one.what.window), default="")
    since = [window for window in sorted(live) if last < window <= newest]
    due = [window for window in since if _is_judged(spec, stores, window)][:most] or [newest]
    readings, looked = _KeptReadings(spec, stores), Looked()
    for window in due:
        is_newest = window == newest
        signs = watch_monitor(spec, stores, clock()) if is_newest else ()
        signals = tuple(Signal(sign.trouble, sign.reason, sign.grave) for sign in signs)
        seen = situation(spec, stores, window, readings=readings, signals=signals)
        record = stores.ledger.of(spec.name)
        response = respond(spec, seen, record)
        if is_newest and response.asks_for_rivals and response.decision.inputs != before:
            asked = rivals(spec, stores, _labelled_windows(spec, seen), readings=readings)
            response = respond(spec, msgspec.structs.replace(seen, rivals=asked), record)
        if not is_newest:
            response = _only_told(response)
        _write(spec, stores, seen, response, record, live, actor=actor, at=clock())
        looked = Looked(window, response.decision, response.decision.inputs)
    return looked


def newest_judged(spec: ModelSpec, stores: Stores) -> tuple[str | None, datetime | None]:
    """The newest window with a verdict, and its end, which is now by the events' clock; None where there is none."""
    newest = _newest_judged(spec, stores, live_windows(spec, stores))
    return newest, None if newest is None else Windows.of(spec).bounds(newest)[1]


def _newest_judged(spec: ModelSpec, stores: Stores, live: Iterable[str]) -> str | None:
    return next((one for one in sorted(live, reverse=True) if _is_judged(spec, stores, one)), None)


def _is_judged(spec: ModelSpec, stores: Stores, window: str) -> bool:
    return stores.lake.has(spec.name, f"{DATA_HEALTH}/{window}")


class _KeptReadings(Readings):
    """Readings that read each verdict once: many windows in a row look back at the same ones."""

    def __init__(self, spec: ModelSpec, stores: Stores) -> None:
        super().__init__(spec, stores)
        self._kept: dict[str, Any] = {}

    def _document(self, kind: str, window: str, what: type[Any]) -> Any:
        key = f"{kind}/{window}"
        if key not in self._kept:
            self._kept[key] = super()._document(kind, window, what)
        return self._kept[key]


def _labelled_windows(spec: ModelSpec, seen: Situation) -> list[str]:
    """The last windows whose labels may speak of the champion."""
    mine = [one.window for one in seen.model if seen.champion and one.version == seen.champion.version and one.sums]
    return mine[-spec.monitoring.confirm.of :]


def _only_told(response: Response) -> Response:
    """The same without any work: an older window is told of, and what to do now is said of the newest."""
    decision = response.decision
    if not decision.asks_for_work:
        return response
    reason = f"{decision.action}, if this were the newest window: {decision.reason}"
    told = msgspec.structs.replace(decision, action="observe", mode="auto", reason=reason, details={})
    return msgspec.structs.replace(response, decision=told)


def _write(
    spec: ModelSpec,
    stores: Stores,
    seen: Situation,
    response: Response,
    record: Record,
    live: dict[str, LiveWindow],
    *,
    actor: str,
    at: datetime,
) -> None:
    facts = tuple(_dated(response.facts, live))
    dated = msgspec.structs.replace(response, facts=facts)
    # False where another look has written it meanwhile: the next one starts from what is there then.
    stores.ledger.record(*entries_of(spec, seen, dated, record, actor=actor, at=at))


def _dated(facts: Iterable[tuple[str, Fact]], live: dict[str, LiveWindow]) -> Iterable[tuple[str, Fact]]:
    """With the moment by the wall clock at which the first row of the window came that an incident was found in."""
    for subject, fact in facts:
        if isinstance(fact, Opened) and fact.window in live and not fact.cause.startswith(SIGNS):
            yield subject, msgspec.structs.replace(fact, first_bad_at=live[fact.window].first_served_at)
        else:
            yield subject, fact
