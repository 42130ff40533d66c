"""Going back to an earlier version, and the other changes of who answers and from what: mask, fall back, recover, retire, force.

Each is one release plan, however often it is asked for: `origin` (the decision's id) tells one change from another.
"""

from datetime import datetime

import uuid_utils

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.rollout import (
    Origin,
    Release,
    ReleasePlan,
    falling_back,
    forcing,
    former_champions,
    masking,
    recovering,
    retirement,
    rollback,
)
from mlops_assets.core.scoring.degraded import CannotDegrade, constant_output, require_maskable
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.plan_changes import Changed, ChangeRefused, History, carry_out
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.whole_bundles import ProvenBundle, prove
from mlops_assets.stores.bundles import BundleError


class RollbackRefused(ChangeRefused):
    """There is no earlier version that could answer; nothing has moved."""


def roll_back(
    spec: ModelSpec,
    stores: Stores,
    to_version: int | None,
    *,
    reason: str,
    decided_by: str,
    now: datetime,
    origin: str | None = None,
    instead_of: int | None = None,
    keep_former: bool = False,
) -> Changed:
    """Serve an earlier version again: no training, no build. It is proven before anything moves.

    Parameters
    ----------
    to_version
        Any registered version with a bundle; None takes the last good one that can still answer.
    now
        By the wall clock.
    origin
        Id of the decision: the same decision carried out twice is one plan. A new one when None.
    instead_of
        The version that the decision is about: when another answers by now, nothing is done.
    keep_former
        The version that answers now is not withdrawn, and may return.

    Raises
    ------
    RollbackRefused
        When another version answers than the one decided about, there is no such version, it was withdrawn, its bundle is
        lost or damaged everywhere, it does not answer its golden rows, or it wants other features than callers send.
    ChangeFailed
        When workers refuse it or answer otherwise; the former champion serves again.
    """

    def step(history: History) -> ReleasePlan | None:
        plan = history[-1]
        if to_version is not None and plan.champion.version == to_version and not plan.fallen_back:
            return None
        if instead_of is not None and plan.champion.version != instead_of:
            raise RollbackRefused(
                f"model {spec.name!r}: version {plan.champion.version} answers by now, and the decision is about {instead_of}; "
                "decide again"
            )
        if plan.retired is not None:
            raise RollbackRefused(f"model {spec.name!r} is out of service ({plan.retired}); recover it first")
        to = _proven(spec, stores, history, to_version)
        others = (one for one in former_champions(history) if one != to.release)
        return rollback(plan, to.entrant(), _origin, last_good=next(others, None), withdraw=not keep_former)

    _origin = _make_origin(origin, reason, decided_by, now)
    return carry_out(spec, stores, _origin, step)


def force_release(
    spec: ModelSpec,
    stores: Stores,
    version: int,
    *,
    reason: str,
    decided_by: str,
    now: datetime,
    origin: str | None = None,
) -> Changed:
    """Put a registered version into service without asking any gate, for emergencies and drills; the plan says `forced`.

    Its bundle must be whole and answer its golden rows all the same. Parameters and errors are those of `roll_back`.
    """

    def step(history: History) -> ReleasePlan | None:
        plan = history[-1]
        if plan.champion.version == version and not plan.fallen_back and plan.retired is None:
            return None
        to = _proven(spec, stores, history, version)
        return forcing(plan, to.entrant(), _origin)

    _origin = _make_origin(origin, reason, decided_by, now)
    return carry_out(spec, stores, _origin, step)


def mask(
    spec: ModelSpec,
    stores: Stores,
    features: tuple[str, ...],
    *,
    reason: str,
    decided_by: str,
    now: datetime,
    origin: str | None = None,
) -> Changed:
    """Take the received values of these features, and of no others, for missing; with none, all values count again.

    Raises
    ------
    ChangeRefused
        When the champion does not know a feature or cannot answer without it.
    ChangeFailed
        When workers refuse the plan or answer otherwise.
    """

    def step(history: History) -> ReleasePlan | None:
        plan = history[-1]
        if set(plan.masked) == set(features):
            return None
        if features:
            champion = _prove(stores, spec.name, plan.champion)
            require_maskable(champion.manifest, champion.scorer, features, champion.golden.rows)
        return masking(plan, features, _origin)

    _origin = _make_origin(origin, reason, decided_by, now)
    return carry_out(spec, stores, _origin, step)


def fall_back(
    spec: ModelSpec, stores: Stores, *, reason: str, decided_by: str, now: datetime, origin: str | None = None
) -> Changed:
    """Answer with the constant: base rate, most frequent class, median. Errors are those of `mask`."""

    def step(history: History) -> ReleasePlan | None:
        plan = history[-1]
        if plan.fallen_back:
            return None
        after = falling_back(plan, _origin)
        constant_output(_prove(stores, spec.name, plan.champion).manifest, plan.fallback_value)
        return after

    _origin = _make_origin(origin, reason, decided_by, now)
    return carry_out(spec, stores, _origin, step)


def recover(
    spec: ModelSpec, stores: Stores, *, reason: str, decided_by: str, now: datetime, origin: str | None = None
) -> Changed:
    """Let the champion answer again, after a fallback or a retirement. Errors are those of `mask`."""

    def step(history: History) -> ReleasePlan | None:
        plan = history[-1]
        if not plan.fallen_back and plan.retired is None:
            return None
        _prove(stores, spec.name, plan.champion)
        return recovering(plan, _origin)

    _origin = _make_origin(origin, reason, decided_by, now)
    return carry_out(spec, stores, _origin, step)


def retire(
    spec: ModelSpec, stores: Stores, *, reason: str, decided_by: str, now: datetime, origin: str | None = None
) -> Changed:
    """Take the model out of service: callers get 410 with the reason. Its history stays, and `recover` brings it back."""

    def step(history: History) -> ReleasePlan | None:
        plan = history[-1]
        return None if plan.retired is not None else retirement(plan, reason, _origin)

    _origin = _make_origin(origin, reason, decided_by, now)
    return carry_out(spec, stores, _origin, step)


def _make_origin(origin: str | None, reason: str, decided_by: str, now: datetime) -> Origin:
    return Origin(origin or f"r-{uuid_utils.uuid7()}", reason, decided_by, now)


def _proven(spec: ModelSpec, stores: Stores, history: History, version: int | None) -> ProvenBundle:
    """The version asked for, or the last good one that can answer; proven, and fit to take the champion's place."""
    if version is not None:
        return _fit_to_serve(spec, stores, history[-1], _release_of(spec, stores, history, version))
    plan = history[-1]
    good = () if plan.last_good is None else (plan.last_good,)
    refusals = []
    for release in dict.fromkeys((*good, *former_champions(history))):
        try:
            return _fit_to_serve(spec, stores, plan, release)
        except RollbackRefused as refusal:
            refusals.append(str(refusal))
    why = "; ".join(refusals) or "no version has served before"
    raise RollbackRefused(
        f"model {spec.name!r}: there is no earlier version to go back to ({why}); name another one, or train a new one"
    )


def _release_of(spec: ModelSpec, stores: Stores, history: History, version: int) -> Release:
    """A version with its bundle, from the plans where it has served, so that a registry out of reach holds nothing up."""
    served = {plan.champion.version: plan.champion for plan in history}
    if version in served:
        return served[version]
    registered = {facts.version: facts for facts in stores.registry.versions(spec.name)}
    if version not in registered:
        known = ", ".join(map(str, registered)) or "none"
        raise RollbackRefused(f"model {spec.name!r} has no version {version}; registered are {known}")
    bundle = registered[version].tags.get("bundle")
    if bundle is None:
        raise RollbackRefused(
            f"model {spec.name!r}: version {version} was registered but never bundled for release; choose another one"
        )
    return Release(version, bundle)


def _fit_to_serve(spec: ModelSpec, stores: Stores, plan: ReleasePlan, release: Release) -> ProvenBundle:
    if release.version in plan.withdrawn:
        raise RollbackRefused(
            f"model {spec.name!r}: version {release.version} was withdrawn and never returns; choose another one"
        )
    proven = _prove(stores, spec.name, release)
    if gap := _other_features(spec, _manifest_of(stores, plan.champion), proven.manifest):
        raise RollbackRefused(
            f"model {spec.name!r}: version {release.version} {gap}; choose another one, or train a new one"
        )
    masked = tuple(name for name in plan.masked if name in proven.features)
    try:
        require_maskable(proven.manifest, proven.scorer, masked, proven.golden.rows)
    except CannotDegrade as error:
        raise RollbackRefused(f"{error}; choose another version") from error
    return proven


def _prove(stores: Stores, model: str, release: Release) -> ProvenBundle:
    try:
        return prove(stores, model, release)
    except BundleError as error:
        raise RollbackRefused(f"model {model!r}: version {release.version} cannot be relied on: {error}") from error


def _manifest_of(stores: Stores, release: Release) -> Manifest | None:
    """The manifest of a version whose bundle may be what is broken."""
    try:
        return stores.bundles.get(release.bundle).manifest
    except BundleError:
        return None


def _other_features(spec: ModelSpec, champion: Manifest | None, earlier: Manifest) -> str | None:
    """Why callers, who send what is declared and what the champion takes, could not be answered by an earlier version."""
    known = {feature.name: feature.type for feature in earlier.features}
    if gone := [name for name in known if name not in spec.feature_names]:
        return f"needs {', '.join(gone)}, which the model no longer declares"
    if changed := [name for name, kind in known.items() if spec.feature(name).type != kind]:
        return f"takes {', '.join(changed)} as another type than is declared"
    sent = () if champion is None else tuple(feature.name for feature in champion.features)
    if new := [name for name in sent if name not in known]:
        return f"refuses {', '.join(new)}, which callers send by now"
    return None
