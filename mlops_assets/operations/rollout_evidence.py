"""What the log tells of a trial: pairs of answers, entities by who answered them, and how the challenger does in service.

Totals of a stage, made anew at each look, since labels come late. What they prove is told in `core/trial.py`.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_assets.core.live_traffic import FEATURE, LABEL, OUTPUT, SHED, combine, window_table
from mlops_assets.core.manifest import Manifest
from mlops_assets.core.metrics import METRICS, Floats, decide
from mlops_assets.core.records import SHADOW
from mlops_assets.core.rollout import ReleasePlan, Split
from mlops_assets.core.sequential import ArmSums, Batch, Differences, Errors, PairedMeans, ValueMeans, Values
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.trial import (
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
from mlops_assets.core.trial_facts import Trial
from mlops_assets.operations.answers import Answers, labelled_of
from mlops_assets.operations.ingestion import TABLES
from mlops_assets.operations.live_traffic import live_windows, read_window
from mlops_assets.operations.rivals import as_scored, ask_again
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE
from mlops_assets.stores.traffic import TrafficStore

Bools = NDArray[np.bool_]
Evidence = dict[str, tuple[Batch, ...]]

_CLOCKS_DIFFER = timedelta(hours=1)  # between hosts, at most
_WINDOWS_FOR_P95 = 3
_kept: dict[
    tuple[str, str, int], tuple[str, pd.DataFrame]
] = {}  # rows of a window are read anew only when it has changed: a trial looks every few seconds


class TrialRows:
    """All logged rows since a trial began, with their labels, also those of windows that are not over yet.

    Parameters
    ----------
    since
        The plan that began the trial.
    """

    def __init__(self, spec: ModelSpec, stores: Stores, since: ReleasePlan) -> None:
        self._spec, self._stores = spec, stores
        self._traffic = TrafficStore(stores.lake, spec.name)
        self.windows: list[str] = []
        frames = []
        live = live_windows(spec, stores)
        for window, content in sorted(self._traffic.contents().items()):
            made = live.get(window)
            if not content.predictions:
                continue
            is_made = made is not None and made.content == content.content
            served = made.last_served_at if made is not None and is_made else None
            if served is not None and served < since.decided_at - _CLOCKS_DIFFER:
                continue
            rows = self._rows(window, content.content, since.release, is_made=is_made)
            if len(rows):
                frames.append(rows)
                self.windows.append(window)
        self.frame = pd.concat(frames, ignore_index=True) if frames else None

    def newest_event(self) -> datetime | None:
        return None if self.frame is None else self.frame["event_time"].max().to_pydatetime()

    def metric(self, name: str) -> pa.Table:
        """What was fed back under a name, in precedence: the last of several counts."""
        traffic = self._traffic
        parts = [
            traffic.read_part("metrics", window, part)
            for window in self.windows
            for part in traffic.parts("metrics", window)
        ]
        known = combine(parts, LABEL)
        known = known.filter(pc.and_(pc.equal(known["name"], name), pc.is_valid(known["number"])))
        return known.sort_by([(column, "ascending") for column in ("revision", "received_at", "number")])

    def _rows(self, window: str, content: str, since: int, *, is_made: bool) -> pd.DataFrame:
        tables = self._stores.lake.table_path(self._spec.name, TABLES)
        for old in [one for one in _kept if one[0] == tables and one[2] != since]:
            del _kept[old]
        key = (tables, window, since)
        if key in _kept and _kept[key][0] == content:
            return _kept[key][1]
        if is_made:
            rows = read_window(self._spec, self._stores, window)
            rows = rows[rows["release"] >= since]
        else:
            read, parts = self._traffic.read_part, self._traffic.parts
            asked = combine([read("predictions", window, part) for part in parts("predictions", window)])
            asked = asked.filter(pc.greater_equal(asked["release"], since))
            truths = combine([read("labels", window, part) for part in parts("labels", window)], LABEL)
            rows = window_table(self._spec, asked, truths).to_pandas()
        _kept[key] = content, rows.reset_index(drop=True)
        return _kept[key][1]


def stamp_of(spec: ModelSpec, stores: Stores) -> str:
    """A text that is another one once there is new traffic or feedback, or another plan."""
    traffic = TrafficStore(stores.lake, spec.name)
    contents = traffic.contents()
    plan = stores.releases.current(spec.name)
    told = len(spec.release.metrics) and sum(len(traffic.parts("metrics", window)) for window in contents)
    return f"{0 if plan is None else plan.release} {told} {hash(tuple(contents.items()))}"


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
    now = frame["event_time"].max()
    frame = frame[frame["release"].isin(shares)]
    manifest = stores.bundles.get(plan.champion.bundle).manifest
    at_share = frame["release"].map(shares) == plan.challenger.share
    waited = (now - frame["event_time"][at_share].min()).total_seconds() if at_share.any() else 0.0
    if mode == "shadow":
        evidence = _of_pairs(spec, manifest, protocol, trial, frame)
        answered = sum(one.samples for one in evidence[QUALITY] if isinstance(one, Errors))
        return Seen(evidence, answered, waited, hard)
    splits = {release: Split(mine[release].salt, share) for release, share in shares.items()}
    evidence, by_share = _of_entities(spec, manifest, protocol, frame, shares, splits, rows)
    return Seen(evidence, by_share.get(plan.challenger.share, 0), waited, hard)


def seen_in_bake(spec: ModelSpec, stores: Stores, trial: Trial, plan: ReleasePlan, since: ReleasePlan) -> Seen:
    """What a look after the promotion goes by: the new champion's labelled rows, which the standby is asked again.

    Parameters
    ----------
    since
        The plan of the promotion.
    """
    assert plan.standby is not None
    rows = TrialRows(spec, stores, since)
    begin = plan.standby.until - timedelta(seconds=trial.began.protocol.stage("bake").patience_s)
    if rows.frame is None:
        return Seen({})
    now = rows.newest_event()
    waited = 0.0 if now is None else max((now - begin).total_seconds(), 0.0)
    frame = rows.frame
    own = frame[(frame["role"] == "champion") & (frame["version"] == plan.champion.version) & (frame["status"] == 200)]
    manifest = stores.bundles.get(plan.champion.bundle).manifest
    known, truth, output = _labelled(spec, manifest, own.reset_index(drop=True), "")
    named = [column for column in known.columns if column.startswith(FEATURE)]
    features = known[named].set_axis([name.removeprefix(FEATURE) for name in named], axis="columns")
    former = ask_again(
        stores, spec.name, plan.standby.bundle, as_scored(stores, spec.name, known, features)
    ) if len(known) else None  # fmt: skip
    if former is None or former.shape != output.shape:
        return Seen({}, 0, waited)
    pairs = _quality_pairs(spec, manifest, trial.began.protocol, truth, output, former)
    return Seen({QUALITY: (pairs,)}, len(truth), waited)


def _of_pairs(spec: ModelSpec, manifest: Manifest, protocol: Protocol, trial: Trial, frame: pd.DataFrame) -> Evidence:
    """Both on the same rows: what callers were answered, and what the challenger would have."""
    champion = frame[(frame["role"] != SHADOW)].drop_duplicates("id")
    shadow = frame[(frame["role"] == SHADOW) & (frame["version"] == trial.began.version)].drop_duplicates("id")
    pairs = champion.merge(shadow, on="id", suffixes=("", _THEIRS))
    failed = _failed(pairs, ""), pairs[f"status{_THEIRS}"].to_numpy() >= 500
    evidence: Evidence = {ERRORS: (Errors.of_pairs(failed[1], failed[0]),)}
    own = (pairs["status"] == 200) & (pairs["role"] == "champion")
    both = pairs.loc[own.to_numpy() & ~failed[0] & ~failed[1]].reset_index(drop=True)
    if protocol.slow_ms is not None:
        slow = [both[f"latency_ms{at}"].to_numpy() > protocol.slow_ms for at in (_THEIRS, "")]
        evidence[LATENCY] = (Errors.of_pairs(slow[0], slow[1]),)
    finite = np.flatnonzero(np.isfinite(_outputs(both, _THEIRS)).all(axis=1))
    both = both.iloc[finite].reset_index(drop=True)
    known, truth, output = _labelled(spec, manifest, both, "")
    theirs = _outputs(known, _THEIRS)[:, : output.shape[1]]
    evidence[QUALITY] = (_quality_pairs(spec, manifest, protocol, truth, theirs, output),)
    if (clip := _clip_of(protocol.stage("shadow"))) is not None:
        losses = [_losses(protocol, manifest, truth, one) for one in (theirs, output)]
        evidence[LOSS] = (Differences.of(losses[0], losses[1], clip),)
    return evidence


def _of_entities(
    spec: ModelSpec,
    manifest: Manifest,
    protocol: Protocol,
    frame: pd.DataFrame,
    shares: Mapping[int, float],
    splits: Mapping[int, Split],
    rows: TrialRows,
) -> tuple[Evidence, dict[float, int]]:
    """Each entity's first outcome by who answered it, and how many labelled answers the challenger has given, by share.

    An error in service is that of the side an entity belongs to, whoever stood in. Answers are those of who gave them.
    """
    valid = (frame["status"] < 400) | (frame["status"] >= 500) & ~frame["status"].isin(SHED)
    asked = frame[valid & (frame["role"] != SHADOW)].sort_values(["event_time", "served_at", "id"], kind="stable")
    keys = asked["entity"].where(asked["entity"].notna(), asked["id"])
    asked = asked.assign(_entity=keys, _share=asked["release"].map(shares))
    first = asked.drop_duplicates("_entity")
    theirs = np.array(
        [splits[release](key) for release, key in zip(first["release"], first["_entity"], strict=True)], dtype=bool
    )
    evidence: Evidence = {ERRORS: _by_share(first["_share"], theirs, _failed(first, ""))}
    own = asked[asked["error"].isna() & asked["role"].isin(("champion", "challenger")) & (asked["status"] == 200)]
    if protocol.slow_ms is not None:
        answered = own.drop_duplicates("_entity")
        slow = answered["latency_ms"].to_numpy() > protocol.slow_ms
        evidence[LATENCY] = _by_share(answered["_share"], _by_challenger(answered), slow)
    stage = protocol.stage("canary")
    for one in stage.tests:
        if isinstance(one.test, ValueMeans):
            evidence[one.name] = _values(one.test, own, rows.metric(one.name))
    known, truth, output = _labelled(spec, manifest, own.reset_index(drop=True), "")
    reached = known["_share"][_by_challenger(known)].to_numpy()
    by_share = {float(share): int((reached == share).sum()) for share in np.unique(reached)}
    once = ~known["_entity"].duplicated().to_numpy()
    wrong = _wrong(manifest, protocol, truth[once], output[once])
    if any(one.name == QUALITY for one in stage.tests):
        evidence[QUALITY] = _by_share(known["_share"][once], _by_challenger(known[once]), wrong)
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
    for share in sorted(set(known["_share"])):
        part = known[known["_share"] == share]
        mine, value = _by_challenger(part), part["_value"].to_numpy(dtype=np.float64)
        sides = [ArmSums.of(value[at], test.low, test.high) for at in (mine, ~mine)]
        batches.append(Values(sides[0], sides[1], float(share)))
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


def _by_share(shares: "pd.Series[float]", by_candidate: Bools, wrong: Bools) -> tuple[Batch, ...]:
    at = shares.to_numpy()
    return tuple(
        Errors.of_entities(by_candidate[at == share], wrong[at == share], float(share)) for share in np.unique(at)
    )


def _by_challenger(rows: pd.DataFrame) -> Bools:
    return (rows["role"] == "challenger").to_numpy()


def _failed(rows: pd.DataFrame, suffix: str) -> Bools:
    """Not answered, or by somebody else than should have."""
    return ((rows[f"status{suffix}"] >= 500) | rows[f"error{suffix}"].notna()).to_numpy(dtype=bool)


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
