"""From a release plan to the models that play its roles, each verified before it may answer. Plans are watched by the loader.

What has been loaded in one role is not loaded again for another: a promotion or a way back is one assignment.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from mlops_assets.core.manifest import FeatureContract, Manifest
from mlops_assets.core.records import Role
from mlops_assets.core.rollout import BreakerLimits, Challenger, Release, ReleasePlan, Split, Standby
from mlops_assets.core.scoring.degraded import CannotDegrade, constant_output, require_maskable
from mlops_assets.core.scoring.domain import DomainIndex
from mlops_assets.core.scoring.load import verified_scorer
from mlops_assets.core.service_counts import ServiceCounter
from mlops_assets.serving.breaker import Breaker
from mlops_assets.serving.contract import RawRow, RowContract
from mlops_assets.serving.metrics import BreakerMetrics, ModelMetrics, count_refused
from mlops_assets.serving.state import Arrange, Beside, LiveModel, Place
from mlops_assets.stores.bundles import Bundle, BundleError

logger = logging.getLogger("bentoml.mlops_assets.casting")

Fetch = Callable[[str], Bundle]


class Unfit(ValueError):
    """A version that could not answer what callers send to the champion."""


def cast_champion(fetch: Fetch, plan: ReleasePlan, former: LiveModel | None) -> LiveModel:
    """The champion of a plan, with those beside it that play the same role as before; the former one where nothing has changed.

    Parameters
    ----------
    fetch
        The bundle of an id; raises `BundleError` when it is not whole.
    former
        What the worker answers from.

    Raises
    ------
    BundleError, ScorerError, CannotDegrade
        When it must not answer.
    """
    if former is not None and former.plan == plan:
        return former
    champion = _verified(fetch, plan, plan.champion, _known(former))
    role: Role = "fallback" if plan.fallen_back else "champion"
    manifest = champion.manifest
    mask = require_maskable(manifest, champion.scorer, plan.masked, champion.golden.rows) if plan.masked else None
    constant = list(constant_output(manifest, plan.fallback_value)) if plan.fallen_back else None
    cast = _in_role(champion, plan, role)
    return replace(cast, mask=mask, constant=constant, arrange=None, beside=Beside())


def with_others(fetch: Fetch | None, champion: LiveModel, former: LiveModel | None) -> LiveModel:
    """The champion with all whom its plan names beside it. Who cannot be loaded is left out, and counted with the reason why.

    Nobody is wanted where no model answers. A last good version that is lost is no fault of the release, and not counted.

    Parameters
    ----------
    fetch
        None for those alone who are loaded already, which takes no time.
    """
    plan, known = champion.plan, _known(former)
    if plan.fallen_back or plan.retired is not None:
        return champion
    if champion is former and not champion.beside.refused:
        return champion
    there = champion.beside.loaded if champion is former else {}
    loaded: dict[Place, LiveModel] = {}
    refused: dict[Place, str] = {}
    for place, release in _named(plan).items():
        if fetch is None and release not in known:
            continue
        try:
            loaded[place] = there.get(place) or _beside(fetch, champion, place, release, known)
        except Exception as error:
            # Whatever is wrong with those beside it, the champion answers.
            refused[place] = f"{type(error).__name__}: {error}"
            if former is None or former.beside.refused.get(place) != refused[place]:
                logger.exception("The %s of %s in release %d is not loaded", place, plan.model, plan.release)
            if place != "last_good":
                count_refused(plan.model)
    if there and refused == champion.beside.refused:
        return champion
    constant = there.get("fallback") or _constant(champion)
    split = Split(plan.salt, plan.challenger.share) if plan.challenger is not None and "challenger" in loaded else None
    return replace(champion, beside=Beside(**loaded, fallback=constant, split=split, refused=refused))


def _named(plan: ReleasePlan) -> dict[Place, Release]:
    """Whom a plan names beside the champion, each version once."""
    places: dict[Place, Release] = {}
    taken = {plan.champion.version}
    named: dict[Place, Challenger | Standby | Release | None] = {
        "challenger": plan.challenger,
        "standby": plan.standby,
        "last_good": plan.last_good,
    }
    for place, one in named.items():
        if one is not None and one.version not in taken:
            places[place] = Release(one.version, one.bundle)
            taken.add(one.version)
    return places


def _beside(
    fetch: Fetch | None, champion: LiveModel, place: Place, release: Release, known: Mapping[Release, LiveModel]
) -> LiveModel:
    plan = champion.plan
    one = _verified(fetch, plan, release, known)
    manifest = one.manifest
    arrange = _arrangement(champion.manifest, manifest)
    masked = [name for name in plan.masked if name in one.scorer.features]
    mask = require_maskable(manifest, one.scorer, masked, one.golden.rows) if masked else None
    role: Role = "standby"
    if place == "challenger":
        assert plan.challenger is not None
        role = "challenger" if plan.challenger.mode == "canary" else "shadow"
    return replace(_in_role(one, plan, role), mask=mask, constant=None, arrange=arrange, beside=Beside())


def _constant(champion: LiveModel) -> LiveModel | None:
    """What answers where no model can; None where the plan has nothing, or nothing fitting."""
    try:
        constant = list(constant_output(champion.manifest, champion.plan.fallback_value))
    except CannotDegrade:
        return None
    one = _in_role(champion, champion.plan, "fallback")
    never = Breaker(BreakerLimits(), time.monotonic)
    return replace(one, constant=constant, breaker=never, beside=Beside())


def _verified(
    fetch: Fetch | None, plan: ReleasePlan, release: Release, known: Mapping[Release, LiveModel]
) -> LiveModel:
    """A version that has answered its golden rows, just now or when it was loaded in another role."""
    if release in known:
        return _with_limits(known[release], plan)
    assert fetch is not None
    bundle = fetch(release.bundle)
    manifest = bundle.manifest
    if (manifest.model, manifest.version) != (plan.model, release.version):
        raise BundleError(
            f"release {plan.release} of {plan.model} names version {release.version}, but bundle {bundle.id} "
            f"holds {manifest.model} version {manifest.version}"
        )
    scorer, golden = verified_scorer(manifest, bundle.files)
    return LiveModel(
        plan=plan,
        bundle=bundle.id,
        manifest=manifest,
        contract=RowContract(manifest),
        domain=DomainIndex(manifest.features, manifest.imputation),
        scorer=scorer,
        golden=golden,
        metrics=ModelMetrics(manifest.model, manifest.version, "champion", scorer.features),
        loaded_at=datetime.now(UTC),
        breaker=_breaker(manifest, plan.breaker or BreakerLimits()),
    )


def _in_role(one: LiveModel, plan: ReleasePlan, role: Role) -> LiveModel:
    """The same model under another plan: counted from nothing."""
    manifest = one.manifest
    return replace(
        one,
        plan=plan,
        role=role,
        metrics=ModelMetrics(manifest.model, manifest.version, role, one.scorer.features),
        loaded_at=datetime.now(UTC),
        counter=ServiceCounter(),
    )


def _with_limits(one: LiveModel, plan: ReleasePlan) -> LiveModel:
    """With the plan's limits; a breaker that is open stays so as long as they are the same."""
    limits = plan.breaker or BreakerLimits()
    return one if one.breaker.limits == limits else replace(one, breaker=_breaker(one.manifest, limits))


def _breaker(manifest: Manifest, limits: BreakerLimits) -> Breaker:
    metrics = BreakerMetrics(manifest.model, manifest.version)

    def told(breaker: Breaker) -> None:
        metrics.show(breaker)
        extra = {"model": manifest.model, "version": manifest.version, "breaker": breaker.state}
        message = "%s: the breaker of version %d is %s; it opened last because %s"
        logger.warning(message, manifest.model, manifest.version, breaker.state, breaker.reason, extra=extra)

    return Breaker(limits, time.monotonic, told)


def _known(former: LiveModel | None) -> dict[Release, LiveModel]:
    if former is None:
        return {}
    everybody = (*former.beside.loaded.values(), former)
    return {
        Release(one.manifest.version, one.bundle): one for one in everybody if one.role != "fallback" or one is former
    }


def _arrangement(champion: Manifest, other: Manifest) -> Arrange | None:
    """What takes a row of the champion's contract to another's; None where they hold the same features in the same order.

    Raises
    ------
    Unfit
        When it needs what callers of the champion do not send, or takes it otherwise.
    """
    sent = {feature.name: (place, feature) for place, feature in enumerate(champion.features)}
    if unknown := [feature.name for feature in other.features if feature.name not in sent]:
        raise Unfit(
            f"version {other.version} needs {', '.join(unknown)}, which callers of version {champion.version} do not send; "
            "release it at once instead"
        )
    if otherwise := [feature.name for feature in other.features if not _takes(feature, sent[feature.name][1])]:
        raise Unfit(
            f"version {other.version} takes {', '.join(otherwise)} otherwise than version {champion.version} does; release it at "
            "once instead"
        )
    places = [sent[feature.name][0] for feature in other.features]
    return None if places == list(range(len(champion.features))) else _picking(places)


def _takes(feature: FeatureContract, sent: FeatureContract) -> bool:
    kinds: Collection[str] = {feature.type, sent.type}
    return (len(kinds) == 1 or kinds == {"number", "integer"}) and (feature.nullable or not sent.nullable)


def _picking(places: list[int]) -> Arrange:
    def pick(row: RawRow) -> RawRow:
        return tuple([row[place] for place in places])

    return pick
