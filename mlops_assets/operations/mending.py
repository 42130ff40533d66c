"""Putting a bundle back that the service could not load: the champion's, from a copy that is still whole.

A worker answers 503 for the model until then, and tries again by itself. Finding such a copy is the business of `whole_bundles.py`.
"""

from datetime import datetime
from typing import NamedTuple

from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE
from mlops_assets.operations.whole_bundles import OutOfReach, whole_bundle
from mlops_assets.stores.bundles import BundleError


class Mending(NamedTuple):
    """What was done about the bundle of a release's champion, in a line; or that it is lost: no copy is whole, and none is out of
    reach.
    """

    told: str
    is_lost: bool
    release: int
    version: int


def mend_champion(spec: ModelSpec, stores: Stores, now: datetime) -> Mending | None:
    """Put the champion's bundle back where a worker refuses it and the store has lost or damaged it; what was done.

    None where no worker complains, or the bundle is whole, so that something else is the matter.

    Parameters
    ----------
    now
        By the wall clock.
    """
    plan = stores.releases.current(spec.name)
    live = stores.workers.live(now, HEARTBEAT_MAX_AGE)
    if plan is None or not any(spec.name in worker.errors for worker in live):
        return None
    release, version = plan.release, plan.champion.version
    try:
        stores.bundles.get(plan.champion.bundle)
    except BundleError as damage:
        try:
            whole_bundle(stores, spec.name, plan.champion)
        except BundleError as error:
            told = f"version {version} cannot be loaded, and no copy of its bundle is whole: {error}"
            return Mending(told, not isinstance(error, OutOfReach), release, version)
        return Mending(f"the bundle of version {version} was put back: {damage}", False, release, version)
    return None
