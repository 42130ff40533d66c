"""Acting on a release that fails in service: the incident, the decision and its rollback, within seconds.

Whether it fails is found out in `guard.py` and `mending.py`, and what follows is decided in `core/service_response.py`.
"""

from collections.abc import Callable
from datetime import datetime

from mlops_assets.core.ledger import Entry
from mlops_assets.core.service_response import BadRelease, decision_on, respond_to_service
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.carry_out import Carrier, NoRuns
from mlops_assets.operations.guard import watch_release
from mlops_assets.operations.look import newest_judged
from mlops_assets.operations.mending import Mending
from mlops_assets.operations.stores import Stores


def guard_release(spec: ModelSpec, stores: Stores, clock: Callable[[], datetime], actor: str) -> str | None:
    """Look at the release in force, and go back where it fails; what was found, None where nothing is.

    Waits for no window and no training. Where the release is not fresh, one small file is read and nothing else.
    """
    finding = watch_release(spec, stores, clock())
    if finding is None:
        return None
    reason = finding.verdict.reason
    _act(spec, stores, BadRelease(finding.release, finding.version, finding.released_at, reason), clock, actor)
    return reason


def replace_lost(spec: ModelSpec, stores: Stores, lost: Mending, clock: Callable[[], datetime], actor: str) -> None:
    """Go back from a champion that a worker cannot load and of which no copy is whole: it goes with the last process that has it.

    Nothing is done where another release has followed since. A version on trial is not held to be at fault: its trial ends, and
    it may be tried again.
    """
    plan = stores.releases.current(spec.name)
    if plan is None or plan.fallen_back or plan.retired is not None:
        return
    # Looking for copies takes seconds, in which a person may have put another version into service.
    if plan.release != lost.release:
        return
    _act(spec, stores, BadRelease(lost.release, lost.version, clock(), lost.told), clock, actor)


def _act(spec: ModelSpec, stores: Stores, bad: BadRelease, clock: Callable[[], datetime], actor: str) -> None:
    """Write down what follows, once for a release, and do it."""
    window, now = newest_judged(spec, stores)
    lines = respond_to_service(spec, bad, stores.ledger.of(spec.name), window, now)
    if lines:
        at = clock()
        entries = [Entry(spec.name, subject, fact, actor, at, now, key) for subject, fact, key in lines]
        stores.ledger.record(*entries)
    carrier = Carrier(spec, stores, NoRuns(), clock, actor)
    if any(one.id == decision_on(spec, bad) for one in carrier.record.open_decisions):
        carrier.carry_out(decision_on(spec, bad))
        carrier.note_releases()
