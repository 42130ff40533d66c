"""Going back to an earlier version, and the other changes of who answers and from what: mask, fall back, recover, retire, force.

Each is one release plan, however often it is asked for: `origin` (the decision's id) tells one change from another.
"""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
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
    outcome_of,
    recovering,
    retirement,
    rollback,
)
from mlops_assets.core.scoring.degraded import CannotDegrade, constant_output, require_maskable
from mlops_assets.operations.plan_changes import (
    Changed,
    ChangeFailed,
    ChangeRefused,
    History,
    Published,
    carry_out,
    publish,
)
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.terms import Terms
from mlops_assets.operations.whole_bundles import ProvenBundle, prove
from mlops_assets.stores.bundles import BundleError

if TYPE_CHECKING:
    from mlops_assets.core.spec import ModelSpec

PASSED_OVER = 2  # times that workers refuse a version before the one before it is gone back to


class RollbackRefused(ChangeRefused):
    """There is no earlier version that could answer; nothing has moved."""


def roll_back(
    spec: "ModelSpec",
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
        Any registered version with a bundle; None takes the last good one that can still answer. Who had to be passed over for
        that, and why, is said in the plan.
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
        When another version answers than the one decided about, there is no such version, it was withdrawn or is on trial, its
        bundle is lost or damaged everywhere, it does not answer its golden rows, it wants other features than callers send, or
        workers have refused it again and again for this very decision.
    ChangeFailed
        When workers refuse it or answer otherwise; the former champion serves again.
    """

    made_by = _make_origin(origin, reason, decided_by, now)
    step = _way_back(Terms.of(spec), stores, made_by, to_version, instead_of=instead_of, keep_former=keep_former)
    return carry_out(spec, stores, made_by, step)


def begin_roll_back(
    terms: Terms,
    stores: Stores,
    to_version: int | None,
    *,
    reason: str,
    decided_by: str,
    now: datetime,
    origin: str,
    keep_former: bool = False,
) -> Published:
    """The part of `roll_back` that callers wait for: proves the way back and publishes the plan, which workers then go by.

    To be followed by `roll_back` with the same origin, which finds the plan and does the rest. Nothing that takes long is
    imported for it where its bundle is in the store.

    Raises
    ------
    RollbackRefused, ChangeFailed
        As `roll_back`, and nothing has moved. Refused as well is a version that has never served: the registry would have to be
        asked for it, which takes longer than to decide first.
    """

    def step(history: History) -> ReleasePlan | None:
        if to_version is not None and all(plan.champion.version != to_version for plan in history):
            raise RollbackRefused(
                f"model {terms.model!r}: version {to_version} has never served; decide first, then go back"
            )
        return way_back(history)

    made_by = _make_origin(origin, reason, decided_by, now)
    way_back = _way_back(terms, stores, made_by, to_version, keep_former=keep_former)
    return publish(terms.model, terms.limits, stores, made_by, step)


def _way_back(
    terms: Terms,
    stores: Stores,
    origin: Origin,
    to_version: int | None,
    *,
    instead_of: int | None = None,
    keep_former: bool = False,
) -> Callable[[History], ReleasePlan | None]:
    """The step of `roll_back`."""

    def step(history: History) -> ReleasePlan | None:
        plan = history[-1]
        if to_version is not None and plan.champion.version == to_version and not plan.fallen_back:
            return None
        if instead_of is not None and plan.champion.version != instead_of:
            raise RollbackRefused(
                f"model {terms.model!r}: version {plan.champion.version} answers by now, and the decision is about {instead_of}; "
                "decide again"
            )
        if plan.retired is not None:
            raise RollbackRefused(f"model {terms.model!r} is out of service ({plan.retired}); recover it first")
        refused = _refused_by_workers(history, origin.rollout)
        if to_version is None:
            to, passed_over = _last_good(terms, stores, history, refused)
        else:
            _require_not_given_up(terms, plan, to_version, refused)
            to, passed_over = _named(terms, stores, history, to_version), {}
        others = (one for one in former_champions(history) if one != to.release and one not in passed_over)
        why = "; ".join((origin.reason, *passed_over.values()))
        told = msgspec.structs.replace(origin, reason=why)
        return rollback(plan, to.entrant(), told, last_good=next(others, None), withdraw=not keep_former)

    return step


def force_release(
    spec: "ModelSpec",
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
        to = _named(Terms.of(spec), stores, history, version)
        return forcing(plan, to.entrant(), _origin)

    _origin = _make_origin(origin, reason, decided_by, now)
    return carry_out(spec, stores, _origin, step)


def mask(
    spec: "ModelSpec",
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
    spec: "ModelSpec", stores: Stores, *, reason: str, decided_by: str, now: datetime, origin: str | None = None
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
    spec: "ModelSpec", stores: Stores, *, reason: str, decided_by: str, now: datetime, origin: str | None = None
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
    spec: "ModelSpec", stores: Stores, *, reason: str, decided_by: str, now: datetime, origin: str | None = None
) -> Changed:
    """Take the model out of service: callers get 410 with the reason. Its history stays, and `recover` brings it back."""

    def step(history: History) -> ReleasePlan | None:
        plan = history[-1]
        return None if plan.retired is not None else retirement(plan, reason, _origin)

    _origin = _make_origin(origin, reason, decided_by, now)
    return carry_out(spec, stores, _origin, step)


def _make_origin(origin: str | None, reason: str, decided_by: str, now: datetime) -> Origin:
    return Origin(origin or f"r-{uuid_utils.uuid7()}", reason, decided_by, now)


def _named(terms: Terms, stores: Stores, history: History, version: int) -> ProvenBundle:
    """The version asked for; proven, and fit to take the champion's place."""
    return _fit_to_serve(terms, stores, history[-1], _release_of(terms, stores, history, version))


def _last_good(
    terms: Terms, stores: Stores, history: History, refused: Counter[int]
) -> tuple[ProvenBundle, dict[Release, str]]:
    """The last good version that can answer, proven; and why each one was passed over that would have come first.

    One that workers refuse may have met them in a bad moment, and is tried again; then the one before it comes first.
    """
    plan = history[-1]
    good = () if plan.last_good is None else (plan.last_good,)
    known = dict.fromkeys((*good, *former_champions(history)))
    passed_over: dict[Release, str] = {}
    for release in sorted(known, key=lambda one: refused[one.version] >= PASSED_OVER):
        try:
            _require_not_given_up(terms, plan, release.version, refused)
            proven = _fit_to_serve(terms, stores, plan, release)
        except RollbackRefused as refusal:
            passed_over[release] = str(refusal).removeprefix(f"model {terms.model!r}: ")
            continue
        later = [one for one in known if one != release and refused[one.version] >= PASSED_OVER]
        return proven, passed_over | {one: _tried_in_vain(one.version, refused) for one in later}
    gone = sorted({one.champion.version for one in history} & {*plan.withdrawn})
    before = f"withdrawn: {', '.join(map(str, gone))}" if gone else "no version has served before"
    why = "; ".join(passed_over.values()) or before
    raise RollbackRefused(
        f"model {terms.model!r}: there is no earlier version to go back to ({why}); name another one, or train a new one"
    )


def _require_not_given_up(terms: Terms, plan: ReleasePlan, version: int, refused: Counter[int]) -> None:
    if plan.challenger is not None and plan.challenger.version == version:
        raise RollbackRefused(
            f"model {terms.model!r}: version {version} is on trial in release {plan.release} and no way back; choose another one"
        )
    if refused[version] >= terms.attempts:
        raise RollbackRefused(f"model {terms.model!r}: {_tried_in_vain(version, refused)}; choose another one")


def _tried_in_vain(version: int, refused: Counter[int]) -> str:
    return f"version {version} was tried {refused[version]} times, and workers have refused it"


def _refused_by_workers(history: History, rollout: str) -> Counter[int]:
    """How often each version was put into service for this very decision, and taken back."""
    made = [at for at, plan in enumerate(history) if plan.rollout == rollout]
    return Counter(history[at].champion.version for at in made if outcome_of(history[: at + 2], rollout)[1])


def _release_of(terms: Terms, stores: Stores, history: History, version: int) -> Release:
    """A version with its bundle, from the plans where it has served, so that a registry out of reach holds nothing up."""
    served = {plan.champion.version: plan.champion for plan in history}
    if version in served:
        return served[version]
    # Takes seconds, as the registry does: no version that has served needs either.
    from mlflow.exceptions import MlflowException

    try:
        registered = {facts.version: facts for facts in stores.registry.versions(terms.model)}
    except MlflowException as error:
        raise ChangeFailed(
            f"model {terms.model!r}: version {version} has never served, and the registry that knows it is out of reach ({error}); "
            "try again"
        ) from error
    bundled = {number: facts.tags["bundle"] for number, facts in registered.items() if "bundle" in facts.tags}
    if version not in bundled:
        what = "was registered but never bundled for release" if version in registered else "does not exist"
        plan = history[-1]
        tried = () if plan.challenger is None else (plan.challenger.version,)
        left_out = {plan.champion.version, *plan.withdrawn, *tried}
        known = ", ".join(str(number) for number in bundled if number not in left_out) or "none"
        raise RollbackRefused(f"model {terms.model!r}: version {version} {what}; choose from {known}")
    return Release(version, bundled[version])


def _fit_to_serve(terms: Terms, stores: Stores, plan: ReleasePlan, release: Release) -> ProvenBundle:
    if release.version in plan.withdrawn:
        raise RollbackRefused(
            f"model {terms.model!r}: version {release.version} was withdrawn and never returns; choose another one"
        )
    proven = _prove(stores, terms.model, release)
    if gap := _other_features(terms, _manifest_of(stores, plan.champion), proven.manifest):
        raise RollbackRefused(
            f"model {terms.model!r}: version {release.version} {gap}; choose another one, or train a new one"
        )
    masked = tuple(name for name in plan.masked if name in proven.features)
    try:
        require_maskable(proven.manifest, proven.scorer, masked, proven.golden.rows)
    except CannotDegrade as error:
        raise RollbackRefused(f"{error}; choose another version") from error
    return proven


def _prove(stores: Stores, model: str, release: Release) -> ProvenBundle:
    try:
        return prove(stores, model, release, "numpy")
    except BundleError as error:
        raise RollbackRefused(f"model {model!r}: version {release.version} cannot be relied on: {error}") from error


def _manifest_of(stores: Stores, release: Release) -> Manifest | None:
    """The manifest of a version whose bundle may be what is broken."""
    try:
        return stores.bundles.get(release.bundle).manifest
    except BundleError:
        return None


def _other_features(terms: Terms, champion: Manifest | None, earlier: Manifest) -> str | None:
    """Why callers, who send what is declared and what the champion takes, could not be answered by an earlier version."""
    known = {feature.name: feature.type for feature in earlier.features}
    if gone := [name for name in known if name not in terms.features]:
        return f"needs {', '.join(gone)}, which the model no longer declares"
    if changed := [name for name, kind in known.items() if terms.features[name] != kind]:
        return f"takes {', '.join(changed)} as another type than is declared"
    sent = () if champion is None else tuple(feature.name for feature in champion.features)
    if new := [name for name in sent if name not in known]:
        return f"refuses {', '.join(new)}, which callers send by now"
    return None
