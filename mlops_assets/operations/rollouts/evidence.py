"""What the log tells of a trial: pairs of answers, entities by who answered them, and how the challenger does in service.

Totals of a stage, made anew at each look, since labels come late. What they prove is told in `core/trials/judging.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from mlops_assets.core.live_traffic import FEATURE, OUTPUT, SHED
from mlops_assets.core.manifest import Manifest
from mlops_assets.core.metrics import METRICS, Floats, decide
from mlops_assets.core.records import SHADOW
from mlops_assets.core.rollout import Release, ReleasePlan, Split
from mlops_assets.core.scoring.scorer import ScorerError
from mlops_assets.core.sequential import ArmSums, Batch, Differences, Errors, PairedMeans, ValueMeans, Values
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.trials.facts import Trial
from mlops_assets.core.trials.judging import (
    ERRORS,
    FEWEST_FOR_P95,
    GIVEN_UP,
    LATENCY,
    LOSS,
    QUALITY,
    Protocol,
    Seen,
    Stage,
)
from mlops_assets.core.trials.samples import blocks, first_of_each_outcome
from mlops_assets.operations.answers import Answers, labelled_of
from mlops_assets.operations.live_traffic import live_windows, read_window
from mlops_assets.operations.rivals import as_scored, ask_again
from mlops_assets.operations.rollouts.rows import TrialRows
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE
from mlops_assets.operations.whole_bundles import whole_bundle
from mlops_assets.stores.bundles import BundleError

Bools = NDArray[np.bool_]
Evidence = dict[str, tuple[Batch, ...]]

_WINDOWS_FOR_P95 = 3


def champion_p95(spec: ModelSpec, stores: Stores) -> float | None:
    """The champion's 95th percentile of latency in the last windows, in milliseconds; None where it has answered too little."""
    plan = stores.releases.current(spec.name)
    if plan is None:
        return None
    found = []
    for window in sorted(live_windows(spec, stores))[-_WINDOWS_FOR_P95:]:
        rows = read_window(spec, stores, window, ["role", "status", "bundle", "latency_ms"])
        own = (rows["bundle"] == plan.champion.bundle) & (rows["role"] == "champion") & (rows["status"] == 200)
        found.append(rows["latency_ms"][own].to_numpy())
    latencies = np.concatenate(found) if found else np.empty(0)
    return float(np.quantile(latencies, 0.95)) if len(latencies) >= FEWEST_FOR_P95 else None


def tripped(stores: Stores, plan: ReleasePlan, now: datetime) -> str | None:
    """Why the workers ask the challenger no more; None where their breakers are closed, or open only now and then."""
    if plan.challenger is None:
        return None
    for worker in stores.workers.live(now, HEARTBEAT_MAX_AGE):
        loaded = worker.models.get(plan.model)
        known = None if loaded is None else loaded.challenger
        if known is None or known.version != plan.challenger.version:
            continue
        if known.breaker.trips >= GIVEN_UP:
            return f"worker {worker.worker} has ceased to ask it {known.breaker.trips} times: {known.breaker.reason}"
    return None


def seen_in_trial(spec: ModelSpec, stores: Stores, trial: Trial, history: Sequence[ReleasePlan]) -> Seen:
    """What a look at a trial goes by now: of the stage that the plan in force is in, which has a challenger."""
    plan = history[-1]
    assert plan.challenger is not None
    protocol, mode = trial.began.protocol, plan.challenger.mode
    mine = {one.release: one for one in history if one.release >= trial.began.release}
    shares = {
        release: one.challenger.share
        for release, one in mine.items()
        if one.challenger is not None and one.challenger.mode == mode
    }
    rows = TrialRows(spec, stores, mine[trial.began.release])
    hard = tripped(stores, plan, datetime.now(UTC))
    frame = rows.frame
    if frame is None:
        return Seen({}, tripped=hard)
    waited = rows.waited_s(frame["release"].map(shares) == plan.challenger.share)
    frame = frame[frame["release"].isin(shares)]
    try:
        manifest = whole_bundle(stores, spec.name, plan.champion).manifest
    except BundleError:
        # Who is asked no more goes, whatever can be compared.
        if hard is None:
            raise
        return Seen({}, tripped=hard)
    if mode == "shadow":
        evidence = _of_pairs(spec, manifest, protocol, trial, frame)
        answered = sum(one.samples for one in evidence[QUALITY] if isinstance(one, Errors))
        return Seen(evidence, answered, waited, hard)
    splits = {release: Split(mine[release].salt, share) for release, share in shares.items()}
    asked = _asked(frame, splits, trial.began.version)
    evidence, by_share = _of_entities(spec, manifest, protocol, asked.assign(_share=asked["release"].map(shares)), rows)
    return Seen(evidence, by_share.get(plan.challenger.share, 0), waited, hard)


def seen_in_bake(spec: ModelSpec, stores: Stores, trial: Trial, plan: ReleasePlan, since: ReleasePlan) -> Seen:
    """What a look after the promotion goes by: the new champion's labelled rows, which the standby is asked again.

    A standby whose bundle is lost is put back where a copy is whole. Where it can be asked no more, that is said, with the evidence
    of the last look.

    Parameters
    ----------
    since
        The plan of the promotion.
    """
    assert plan.standby is not None
    rows = TrialRows(spec, stores, since)
    if rows.frame is None:
        return Seen({})
    frame = rows.frame
    of_it = (frame["role"] == "champion") & (frame["version"] == plan.champion.version)
    waited = rows.waited_s(of_it)
    if (lost := _lost_standby(spec, stores, trial, plan, waited)) is not None:
        return _as_before(trial, waited, lost)
    own = _first_of_each_event(frame[of_it & (frame["status"] == 200)])
    manifest = whole_bundle(stores, spec.name, plan.champion).manifest
    known, truth, output = _labelled(spec, manifest, own, "")
    at = _first_of_each_outcome(known)
    known, truth, output = known[at].reset_index(drop=True), truth[at], output[at]
    named = [column for column in known.columns if column.startswith(FEATURE)]
    features = known[named].set_axis([name.removeprefix(FEATURE) for name in named], axis="columns")
    if not len(known):
        return Seen({}, 0, waited)
    try:
        former = ask_again(stores, spec.name, plan.standby.bundle, as_scored(stores, spec.name, known, features))
    except ScorerError as error:  # a level that it does not know, say: the row is among those of every later look
        return _as_before(trial, waited, f"version {plan.standby.version} refuses what callers send: {error}")
    if former is None or former.shape != output.shape:
        otherwise = "answers in another form" if former is not None else "needs features that callers no longer send"
        return _as_before(trial, waited, f"version {plan.standby.version} {otherwise}")
    pairs = _quality_pairs(spec, manifest, trial.began.protocol, truth, output, former)
    return Seen({QUALITY: (pairs,)}, len(truth), waited)


def _lost_standby(spec: ModelSpec, stores: Stores, trial: Trial, plan: ReleasePlan, waited_s: float) -> str | None:
    """Why the standby's bundle cannot be had; None where it can. Copies are looked for at once, and again before the bake ends."""
    assert plan.standby is not None
    known = trial.looked is not None and trial.looked.seen.incomparable is not None
    is_last = waited_s >= trial.began.protocol.stage("bake").patience_s
    try:
        if known and not is_last:
            stores.bundles.get(plan.standby.bundle)
        else:
            whole_bundle(stores, spec.name, Release(plan.standby.version, plan.standby.bundle))
    except BundleError as error:
        return f"the bundle of version {plan.standby.version} is lost: {error}"
    return None


def _as_before(trial: Trial, waited_s: float, why: str) -> Seen:
    """What the last look of the bake went by, and why there is no more."""
    last = trial.looked
    if last is None or last.stage != "bake":
        return Seen({}, 0, waited_s, None, why)
    return Seen(last.seen.evidence, last.seen.answered, waited_s, None, why)


def _of_pairs(spec: ModelSpec, manifest: Manifest, protocol: Protocol, trial: Trial, frame: pd.DataFrame) -> Evidence:
    """Both on the same rows: what callers were answered, and what the challenger would have."""
    champion = frame[(frame["role"] != SHADOW)].drop_duplicates("id")
    shadow = frame[(frame["role"] == SHADOW) & (frame["version"] == trial.began.version)].drop_duplicates("id")
    pairs = _first_of_each_event(champion.merge(shadow, on="id", suffixes=("", _THEIRS)))
    failed = _failed(pairs), pairs[f"status{_THEIRS}"].to_numpy() >= 500
    evidence: Evidence = {ERRORS: (Errors.of_pairs(failed[1], failed[0]),)}
    own = (pairs["status"] == 200) & (pairs["role"] == "champion")
    both = pairs.loc[own.to_numpy() & ~failed[0] & ~failed[1]].reset_index(drop=True)
    if protocol.slow_ms is not None:
        slow = [both[f"latency_ms{at}"].to_numpy() > protocol.slow_ms for at in (_THEIRS, "")]
        evidence[LATENCY] = (Errors.of_pairs(slow[0], slow[1]),)
    finite = np.flatnonzero(np.isfinite(_outputs(both, _THEIRS)).all(axis=1))
    known, truth, output = _labelled(spec, manifest, both.iloc[finite].reset_index(drop=True), "")
    at = _first_of_each_outcome(known)
    known, truth, output = known[at], truth[at], output[at]
    theirs = _outputs(known, _THEIRS)[:, : output.shape[1]]
    evidence[QUALITY] = (_quality_pairs(spec, manifest, protocol, truth, theirs, output),)
    if (clip := _clip_of(protocol.stage("shadow"))) is not None:
        losses = [_losses(protocol, manifest, truth, one) for one in (theirs, output)]
        evidence[LOSS] = (Differences.of(losses[0], losses[1], clip),)
    return evidence


def _asked(frame: pd.DataFrame, splits: Mapping[int, Split], version: int) -> pd.DataFrame:
    """The requests of a canary that were put to either side: their `_entity`, whether they were the challenger's (`_theirs`), and
    the `_block` of those that are compared with each other: entities that were first asked for at about the same time.

    What another answered in its place is the challenger's where the record says why it did not: it failed, it refused the row, or
    its breaker was open. Where the record says nothing of it, the worker had not loaded it, or the caller had asked for a version:
    such a row of its share says nothing of either side, and where it is the first of its entity, nor do the others: those who come
    back are other entities than those who come once, and the champion's are counted where they came first.
    """
    valid = (frame["status"] < 400) | (frame["status"] >= 500) & ~frame["status"].isin(SHED)
    asked = frame[valid & (frame["role"] != SHADOW)].sort_values(["event_time", "served_at", "id"], kind="stable")
    entity = asked["entity"].where(asked["entity"].notna(), asked["id"])
    stood_in = asked["error"].fillna("").str.startswith(f"challenger version {version}")
    theirs = (asked["role"] == "challenger") | stood_in
    of_the_share = _of_the_share(asked.assign(_entity=entity), splits) | theirs
    # A request that nobody answered names no one whose it was.
    theirs |= of_the_share & (asked["status"] >= 500)
    block = pd.Series(blocks(of_the_share.to_numpy(dtype=bool)), index=asked.index)
    asked = asked.assign(_entity=entity, _theirs=theirs, _block=block.groupby(entity).transform("first"))
    left_out = of_the_share & ~theirs
    unknown = entity[left_out & ~entity.duplicated()]
    return asked[~left_out & ~entity.isin(unknown)]


def _of_the_share(asked: pd.DataFrame, splits: Mapping[int, Split]) -> "pd.Series[bool]":
    """Whether each request was the challenger's to answer, by the plan that it was asked under."""
    found = pd.Series(False, index=asked.index)
    for release, split in splits.items():
        entities = asked["_entity"][asked["release"] == release]
        found[entities.index] = entities.map({one: split(one) for one in entities.unique()}).astype(bool)
    return found


def _of_entities(
    spec: ModelSpec, manifest: Manifest, protocol: Protocol, asked: pd.DataFrame, rows: TrialRows
) -> tuple[Evidence, dict[float, int]]:
    """Each entity's first outcome by whose it was, and how many labelled answers the challenger has given, by share.

    An error in service is that of the side that should have answered, whoever stood in. Answers are those of who gave them.
    """
    first = asked.drop_duplicates("_entity")
    evidence: Evidence = {ERRORS: _by_share(first, _failed(first))}
    is_own = asked["error"].isna() & asked["role"].isin(("champion", "challenger")) & (asked["status"] == 200)
    own = asked[is_own & asked["_entity"].isin(first["_entity"][is_own[first.index]])]
    if protocol.slow_ms is not None:
        answered = own.drop_duplicates("_entity")
        evidence[LATENCY] = _by_share(answered, answered["latency_ms"].to_numpy() > protocol.slow_ms)
    stage = protocol.stage("canary")
    for one in stage.tests:
        if isinstance(one.test, ValueMeans):
            evidence[one.name] = _values(one.test, own, rows.metric(one.name))
    known, truth, output = _labelled(spec, manifest, own.reset_index(drop=True), "")
    reached = known["_share"][known["_theirs"]].to_numpy()
    by_share = {float(share): int((reached == share).sum()) for share in np.unique(reached)}
    once = ~known["_entity"].duplicated().to_numpy()
    if any(one.name == QUALITY for one in stage.tests):
        evidence[QUALITY] = _by_share(known[once], _wrong(manifest, protocol, truth[once], output[once]))
    return evidence, by_share


def _values(test: ValueMeans, own: pd.DataFrame, fed: pa.Table) -> tuple[Batch, ...]:
    """A business metric by entity: the first answer of each that a value came back for."""
    values = fed.to_pandas()
    by_id = values.dropna(subset="id").drop_duplicates("id", keep="last").set_index("id")["number"]
    by_event = values[values["id"].isna()].drop_duplicates(["entity", "event_time"], keep="last")
    found = own["id"].map(by_id)
    if len(by_event):
        events = by_event.set_index(["entity", "event_time"])["number"]
        keys = pd.MultiIndex.from_frame(own[["entity", "event_time"]])
        found = found.fillna(pd.Series(events.reindex(keys).to_numpy(), index=own.index))
    known = own.assign(_value=found).dropna(subset="_value").drop_duplicates("_entity")
    batches: list[Batch] = []
    for part, mine, share in _sides(known):
        value = part["_value"].to_numpy(dtype=np.float64)
        sides = [ArmSums.of(value[at], test.low, test.high) for at in (mine, ~mine)]
        batches.append(Values(sides[0], sides[1], share))
    return tuple(batches)


def _quality_pairs(
    spec: ModelSpec, manifest: Manifest, protocol: Protocol, truth: Floats, candidate: Floats, champion: Floats
) -> Errors:
    if spec.task == "regression":
        losses = [_losses(protocol, manifest, truth, one) for one in (candidate, champion)]
        return Errors.of_losses(losses[0], losses[1])
    wrong = [decide(one, manifest.threshold) != truth for one in (candidate, champion)]
    return Errors.of_pairs(wrong[0], wrong[1])


def _wrong(manifest: Manifest, protocol: Protocol, truth: Floats, output: Floats) -> Bools:
    if protocol.wrong_above is not None:
        return _losses(protocol, manifest, truth, output) > protocol.wrong_above
    if manifest.task == "regression":
        return np.zeros(len(truth), dtype=bool)
    return np.asarray(decide(output, manifest.threshold) != truth, dtype=bool)


def _losses(protocol: Protocol, manifest: Manifest, truth: Floats, output: Floats) -> Floats:
    rows = METRICS[protocol.loss].rows
    assert rows is not None  # the declaration takes no other
    return rows(truth, output, manifest.threshold)


def _by_share(rows: pd.DataFrame, wrong: Bools) -> tuple[Batch, ...]:
    return tuple(
        Errors.of_entities(mine, part["_wrong"].to_numpy(dtype=bool), share)
        for part, mine, share in _sides(rows.assign(_wrong=wrong))
    )


def _sides(rows: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, Bools, float]]:
    """The rows of each block at each declared share, which of them are the challenger's, and the share that came true.

    Where only one side has any, there is nothing to compare.
    """
    for _, part in rows.groupby(["_share", "_block"]):
        mine = part["_theirs"].to_numpy(dtype=bool)
        if mine.any() and not mine.all():
            yield part, mine, float(mine.mean())


def _first_of_each_event(rows: pd.DataFrame) -> pd.DataFrame:
    """In the order of events, each entity once for one and the same event; a row without an entity stands for itself."""
    rows = rows.sort_values(["event_time", "served_at", "id"], kind="stable")
    repeated = rows.duplicated(["entity", "event_time"]) & rows["entity"].notna()
    return rows[~repeated].reset_index(drop=True)


def _first_of_each_outcome(rows: pd.DataFrame) -> Bools:
    return first_of_each_outcome(rows["entity"], rows["event_time"], rows["label_observed_at"])


def _failed(rows: pd.DataFrame) -> Bools:
    """Not answered, or by somebody else than should have."""
    return ((rows["status"] >= 500) | rows["error"].notna()).to_numpy(dtype=bool)


def _labelled(
    spec: ModelSpec, manifest: Manifest, rows: pd.DataFrame, suffix: str
) -> tuple[pd.DataFrame, Floats, Floats]:
    """The rows whose label has come, their truths, and what was answered to them."""
    output = _outputs(rows, suffix)
    labelled = labelled_of(spec, Answers(rows, rows, output, None, None), manifest.classes)
    return rows[labelled.at].reset_index(drop=True), labelled.truth, labelled.output


def _outputs(rows: pd.DataFrame, suffix: str) -> Floats:
    """Shape (n, K): what one side answered."""
    named = [str(name).removesuffix(suffix) for name in rows.columns if str(name).startswith(OUTPUT)]
    places = sorted({int(place) for name in named if (place := name[len(OUTPUT) :]).isdigit()})
    return rows[[f"{OUTPUT}{place}{suffix}" for place in places]].to_numpy(dtype=np.float64)


def _clip_of(stage: Stage) -> float | None:
    tests = (one.test for one in stage.tests)
    return next((one.clip for one in tests if isinstance(one, PairedMeans)), None)


_THEIRS = " of the challenger"
