"""Was anything lost, and was every answer that of the model the plan says? Found out for all drills alike, from the real log.

What the callers were told is held against the prediction log, the release plans and the bundles; nothing here asks the service.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np

from mlops_assets.core.records import LabelRecord, PredictionRecord
from mlops_assets.core.rollout import Release, ReleasePlan, Split
from mlops_assets.core.scoring.degraded import constant_output, mask_of
from mlops_assets.core.scoring.load import load_scorer
from mlops_assets.core.scoring.scorer import differences
from mlops_assets.drills.caller import Acknowledged
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.whole_bundles import whole_bundle

TOLERANCE = 1e-12
_EXAMPLES = 5


class Verified(msgspec.Struct, frozen=True):
    """What the log says of all that callers were told.

    Attributes
    ----------
    lost
        Answers and labels that were acknowledged and are not in the log.
    wrong
        Answers that contradict the model which the plan in force says should have given them, logged or acknowledged.
    examples
        Some of both, in words.
    """

    acknowledged: int
    logged: int
    lost: int
    wrong: int
    examples: tuple[str, ...] = ()


def verify(
    stores: Stores, acknowledged: Sequence[Acknowledged], labels: int, swap: timedelta = timedelta(seconds=30)
) -> Verified:
    """Hold all acknowledged answers, and so many acknowledged labels, against the log; and the log against plans and bundles.

    Parameters
    ----------
    swap
        How long after a plan was published the one before may still be answered from; the declared `release.confirm_timeout`.
    """
    records = list(stores.log.records())
    predictions = [one for one in records if isinstance(one, PredictionRecord)]
    answered = [one for one in predictions if one.status == 200]
    told = list(missing(acknowledged, answered))
    lost = len(told)
    lacking = labels - sum(isinstance(one, LabelRecord) for one in records)
    if lacking > 0:
        lost += lacking
        told.append(f"{lacking} of {labels} acknowledged labels are not in the log")
    wrong = [*altered(acknowledged, answered), *contradictions(stores, answered, swap)]
    return Verified(len(acknowledged), len(predictions), lost, len(wrong), (*told[:_EXAMPLES], *wrong[:_EXAMPLES]))


def missing(acknowledged: Iterable[Acknowledged], answered: Iterable[PredictionRecord]) -> Iterable[str]:
    """One line for each acknowledged answer of which the log has no record."""
    known = {_key(record) for record in answered}
    for one in acknowledged:
        if _key(one) not in known:
            yield f"{one.id}: acknowledged by {one.model} version {one.version} in release {one.release}, and not in the log"


def altered(acknowledged: Iterable[Acknowledged], answered: Iterable[PredictionRecord]) -> Iterable[str]:
    """One line for each acknowledged answer that the log has otherwise. An id may have been asked for more than once."""
    known = defaultdict(list)
    for record in answered:
        known[_key(record)].append(record.output)
    for one in acknowledged:
        outputs = known.get(_key(one), [])
        if outputs and all(_apart(output, one.output) > TOLERANCE for output in outputs):
            yield f"{one.id}: acknowledged as {one.output}, logged as {outputs[0]}"


def contradictions(stores: Stores, answered: Sequence[PredictionRecord], swap: timedelta) -> Iterable[str]:
    """One line for each answer that the plan in force does not account for."""
    by_model = defaultdict(list)
    for record in answered:
        by_model[record.model].append(record)
    for model, records in sorted(by_model.items()):
        history = stores.releases.history(model)
        published = [published_at(stores, plan) for plan in history]
        by_release = defaultdict(list)
        for record in records:
            why = not_as_planned(record, history, published, swap)
            if why is not None:
                yield f"{record.id}: {why}"
            else:
                by_release[record.release].append(record)
        for release, those in sorted(by_release.items()):
            yield from _rescored(stores, history[release - 1], those)


def not_as_planned(
    record: PredictionRecord, history: Sequence[ReleasePlan], published: Sequence[datetime], swap: timedelta
) -> str | None:
    """Why a record is not what the plans of its model say; None when it is.

    Parameters
    ----------
    published
        When each plan was published, by the wall clock.
    """
    if not 1 <= record.release <= len(history):
        return f"names release {record.release}, and there are {len(history)}"
    plan = history[record.release - 1]
    why = _not_its_role(record, plan)
    if why is not None:
        return why
    if plan.retired is not None:
        return f"answered in release {plan.release}, which takes the model out of service"
    if record.served_at < plan.decided_at:
        return f"answered at {record.served_at} in release {plan.release}, decided at {plan.decided_at}"
    ends = [*(end + swap for end in published[1:]), record.served_at]
    in_force = [
        one for one, begin, end in zip(history, published, ends, strict=True) if begin <= record.served_at <= end
    ]
    if plan.release == len(history) or any(_answers_alike(record, plan, one) for one in in_force):
        return None
    return f"answered in release {plan.release} at {record.served_at}, long after another was published"


def published_at(stores: Stores, plan: ReleasePlan) -> datetime:
    """When a plan was written, by the wall clock: a plan is decided some time before it is published."""
    files = (stores.releases.root / plan.model).glob(f"*{plan.release}.json")
    written = next(path for path in files if int(path.stem) == plan.release).stat().st_mtime
    return datetime.fromtimestamp(written, UTC)


def _key(one: Acknowledged | PredictionRecord) -> tuple[str, str, int, int, str]:
    return one.id, one.model, one.version, one.release, one.role


def _not_its_role(record: PredictionRecord, plan: ReleasePlan) -> str | None:
    """Why a version may not have answered in its role; None when it may."""
    role, trial = record.role, plan.challenger
    may = {
        "champion": (plan.champion,),
        "fallback": (plan.champion,),
        "standby": (plan.standby, plan.last_good),
        "challenger": (trial,),
        "shadow": (trial,),
    }[role]
    known = [(one.version, one.bundle) for one in may if one is not None]
    if (record.version, record.bundle) not in known:
        those = f"that of {', '.join(str(version) for version, _ in known)}" if known else f"no {role}'s"
        return f"version {record.version} answered as {role} in release {plan.release}, which is {those}"
    if plan.fallen_back != (role == "fallback") and not (role == "fallback" and record.error):
        return f"answered as {role} in release {plan.release}"
    if role == "standby" and not record.error:
        return f"answered as standby in release {plan.release}, and nothing is said of what ailed the champion"
    if role in ("challenger", "shadow") and trial is not None:
        mode = "canary" if role == "challenger" else "shadow"
        if trial.mode != mode or not Split(plan.salt, trial.share)(record.entity or record.id):
            return (
                f"answered as {role} in release {plan.release}, where {record.entity or record.id} is not of its share"
            )
    return None


def _answers_alike(record: PredictionRecord, plan: ReleasePlan, other: ReleasePlan) -> bool:
    """Whether a late answer would have been given in the other plan too."""
    if record.role in ("challenger", "shadow"):
        return _not_its_role(record, other) is None and plan.masked == other.masked
    return (plan.champion, plan.masked, plan.fallen_back) == (other.champion, other.masked, other.fallen_back)


def _rescored(stores: Stores, plan: ReleasePlan, records: Sequence[PredictionRecord]) -> Iterable[str]:
    """One line for each answer that is not what the bundle of the version that gave it makes of the logged features."""
    by_version = defaultdict(list)
    for record in records:
        by_version[record.version, record.bundle, record.role == "fallback"].append(record)
    for (version, bundle, is_constant), those in sorted(by_version.items()):
        yield from _rescored_by(stores, plan, Release(version, bundle), those, is_constant=is_constant)


def _rescored_by(
    stores: Stores, plan: ReleasePlan, release: Release, records: Sequence[PredictionRecord], *, is_constant: bool
) -> Iterable[str]:
    bundle = whole_bundle(stores, plan.model, release)
    if is_constant:
        expected = np.array([constant_output(bundle.manifest, plan.fallback_value)] * len(records))
    else:
        names = {feature.name for feature in bundle.manifest.features}
        mask = mask_of(bundle.manifest, [name for name in plan.masked if name in names])
        rows = [mask([float(v) if isinstance(v, bool) else v for v in record.features]) for record in records]
        expected = load_scorer(bundle.manifest, bundle.files).score_rows(rows)
    apart = differences(np.array([record.output for record in records]), expected).max(axis=1)
    for position in np.flatnonzero(~(apart <= TOLERANCE)).tolist():
        record = records[position]
        yield (
            f"{record.id}: version {record.version} answered {record.output}, its bundle gives {tuple(expected[position])} "
            f"in release {plan.release}"
        )


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    return float(differences(np.array(one), np.array(other)).max()) if len(one) == len(other) else float("inf")
