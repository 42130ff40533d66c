"""Watching a fresh release by what its workers count, within seconds. What counts as failing is told in `core/guard.py`."""

from datetime import datetime
from functools import reduce
from operator import add

import msgspec

from mlops_assets.core.guard import ServiceVerdict, judge_release
from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.core.service_counts import ServiceCounts
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE


class GuardFinding(msgspec.Struct, frozen=True):
    """A fresh release that fails: which one, what it does wrong, counted since it went live in `workers` workers."""

    release: int
    version: int
    released_at: datetime
    verdict: ServiceVerdict
    counts: ServiceCounts
    workers: int


def watch_release(spec: ModelSpec, stores: Stores, now: datetime) -> GuardFinding | None:
    """What is wrong with the release in force, as long as it is watched; None when nothing is found, or there is none to watch.

    Parameters
    ----------
    now
        By the wall clock; a release is watched for the declared time since its champion came, or was told what to mask.
    """
    plan = stores.releases.current(spec.name)
    if plan is None or not _is_watched(spec, stores, plan, now):
        return None
    live = stores.workers.live(now, HEARTBEAT_MAX_AGE)
    parts = [
        worker.models[spec.name].counts
        for worker in live
        if spec.name in worker.models and worker.models[spec.name].release == plan.release
    ]
    counts = reduce(add, parts, ServiceCounts())
    verdict = judge_release(counts, spec.response.service)
    if verdict is None:
        return None
    return GuardFinding(plan.release, plan.champion.version, plan.decided_at, verdict, counts, len(parts))


def _is_watched(spec: ModelSpec, stores: Stores, plan: ReleasePlan, now: datetime) -> bool:
    if plan.retired is not None or plan.fallen_back:
        return False
    watch = spec.response.service.watch
    return now - plan.decided_at <= watch and now - _answers_so_since(stores, plan) <= watch


def _answers_so_since(stores: Stores, plan: ReleasePlan) -> datetime:
    """Since when the champion answers as it does: a step of a trial makes a new plan, and no new champion."""
    since = plan
    for earlier in reversed(stores.releases.history(plan.model)):
        if (earlier.champion, earlier.masked, earlier.fallen_back) != (plan.champion, plan.masked, plan.fallen_back):
            break
        since = earlier
    return since.decided_at
