"""Acting on a fresh release that fails in service: the incident, the decision and its rollback, within seconds.

Whether it fails is found out in `guard.py`, and what follows is decided in `core/service_response.py`.
"""

from collections.abc import Callable
from datetime import datetime

from mlops_assets.core.ledger import Entry
from mlops_assets.core.service_response import BadRelease, decision_on, respond_to_service
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.carry_out import Carrier, NoRuns
from mlops_assets.operations.guard import watch_release
from mlops_assets.operations.look import newest_judged
from mlops_assets.operations.stores import Stores


def guard_release(spec: ModelSpec, stores: Stores, clock: Callable[[], datetime], actor: str) -> str | None:
    """Look at the release in force, and go back where it fails; what was found, None where nothing is.

    Waits for no window and no training. Where the release is not fresh, one small file is read and nothing else.
    """
    finding = watch_release(spec, stores, clock())
    if finding is None:
        return None
    bad = BadRelease(finding.release, finding.version, finding.released_at, finding.verdict)
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
    return finding.verdict.reason
