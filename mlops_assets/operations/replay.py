"""A policy tried on history: the same windows, verdicts and decisions as in service, without HTTP, daemon or registry server.

Every policy runs in a folder of its own, from the same first model on. What is printed of it is the business of the CLI.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.pipeline import Pipeline

from mlops_assets.core.evaluation import Evaluation
from mlops_assets.core.ledger import (
    Decision,
    Ended,
    Entry,
    Fact,
    Frozen,
    Mitigated,
    Outcome,
    Record,
    Refused,
    Released,
    Started,
)
from mlops_assets.core.live_traffic import FEATURE, LABEL, OUTPUT, TIME
from mlops_assets.core.metrics import METRICS, Floats
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.response import respond
from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.core.schema import validate
from mlops_assets.core.scoring.scorer import CompiledScorer
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import encode_label, predict
from mlops_assets.core.training_request import TrainingRequest, request_of, requested
from mlops_assets.operations.evaluate import evaluate
from mlops_assets.operations.history import read_history
from mlops_assets.operations.live_traffic import compact
from mlops_assets.operations.monitor import Monitor
from mlops_assets.operations.plan_changes import ChangeRefused
from mlops_assets.operations.release import ReleaseRefused, final_fit, plan_release, require_verdict
from mlops_assets.operations.respond import after, entries_of, situation
from mlops_assets.operations.rivals import rivals
from mlops_assets.operations.rollback import mask, roll_back
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.train import plan_imputation, train
from mlops_assets.sources.table import read_source
from mlops_assets.stores.home import Home
from mlops_assets.stores.registry import AliasMove, Registry, VersionFacts
from mlops_assets.stores.traffic import TrafficStore

NEVER, WEEKLY, FOUR_WEEKLY, DECLARED = "never", "every week", "every four weeks", "as declared"


@dataclass(frozen=True)
class Policy:
    """One way of keeping a model: by the calendar, `every` so often, or as its declaration responds; never where neither."""

    name: str
    spec: ModelSpec
    every: timedelta | None = None
    responds: bool = False


class Step(msgspec.Struct, frozen=True):
    """Something that a policy did: at which event time, what, with what outcome, and why."""

    now: datetime
    action: str
    outcome: str
    why: str


class PolicyResult(msgspec.Struct, frozen=True):
    """How a policy fared. Losses are means of the model's headline loss over labelled rows, by window and over all."""

    policy: str
    model: str
    metric: str
    trainings: int
    promotions: int
    rollbacks: int
    alerts_per_week: float | None
    mean_loss: float
    worst_loss: float
    worst_window: str
    windows: tuple[str, ...]
    losses: tuple[float, ...]
    rows: tuple[int, ...]
    steps: tuple[Step, ...]
    seconds: float


def policies_of(spec: ModelSpec, edited: ModelSpec | None = None) -> tuple[Policy, ...]:
    """Never, every week, every four weeks, as declared, and as edited where another declaration is given."""
    week = timedelta(weeks=1)
    known = (
        Policy(NEVER, spec),
        Policy(WEEKLY, spec, week),
        Policy(FOUR_WEEKLY, spec, 4 * week),
        Policy(DECLARED, spec, responds=True),
    )
    return known if edited is None else (*known, Policy("as edited", edited, responds=True))


def replay_all(
    policies: tuple[Policy, ...],
    begin: datetime,
    end: datetime,
    label_delay: timedelta,
    *,
    processes: int = 1,
    show: Callable[[PolicyResult], None] = lambda result: None,
) -> tuple[PolicyResult, ...]:
    """Try policies on the same history, in `processes` of their own where more than one, and report each as it is done."""
    if processes <= 1:
        results = []
        for policy in policies:
            results.append(replay(policy, begin, end, label_delay))
            show(results[-1])
        return tuple(results)
    with ProcessPoolExecutor(processes) as pool:
        waiting = [pool.submit(replay, policy, begin, end, label_delay) for policy in policies]
        for one in waiting:
            show(one.result())
    return tuple(one.result() for one in waiting)


def replay(policy: Policy, begin: datetime, end: datetime, label_delay: timedelta) -> PolicyResult:
    """Try one policy from `begin` to `end`, with every label known `label_delay` after its event.

    The first model is trained on what was known at `begin`.

    Raises
    ------
    ValueError
        When there are no rows between, or nothing to train the first model on.
    """
    started = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="mlops-replay-"))
    try:
        run = _Run(policy, ReplayStores(Home(folder)), begin, end, label_delay)
        run.go()
        return run.result(time.perf_counter() - started)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Run:
    """One policy on its way through the windows."""

    def __init__(self, policy: Policy, stores: Stores, begin: datetime, end: datetime, label_delay: timedelta) -> None:
        self._policy, self._stores = policy, stores
        spec = policy.spec.model_copy(update={"live_from": begin})
        self._spec, self._windows, self._monitor = spec, Windows.of(spec), Monitor(spec, stores)
        self._source = read_source(spec.source)
        times = self._source[spec.event_time]
        self._rows = validate(spec, self._source[(times >= begin) & (times < end)]).valid.reset_index(drop=True)
        if self._rows.empty:
            raise ValueError(f"{spec.name}: the source has no rows from {begin.isoformat()} to {end.isoformat()}")
        self._keys = self._windows.keys(self._rows[spec.event_time]).to_numpy()
        self._observed = self._rows[spec.event_time] + label_delay
        self._labelled = self._rows[spec.label.column].notna().to_numpy()
        self._posted = ~self._labelled
        self._begin, self._end, self._delay = begin, end, label_delay
        self._record, self._steps = Record(spec.name), list[Step]()
        self._lost = np.full(len(self._rows), np.nan)
        self._traffic = TrafficStore(stores.lake, spec.name)
        self._trainings = self._promotions = self._rollbacks = 0

    def go(self) -> None:
        self._train(self._begin, TrainingRequest(), first=True)
        next_training = self._begin + (self._policy.every or self._end - self._begin)
        last = self._windows.key(self._end - timedelta(microseconds=1))
        for window in self._windows.between(self._windows.key(self._begin), last):
            now = self._windows.bounds(window)[1]
            touched = self._live(window, now)
            if self._policy.responds:
                self._look(window, touched)
                self._respond(window)
            elif self._policy.every is not None and now >= next_training:
                self._train(now, TrainingRequest(trigger="schedule"))
                next_training += self._policy.every

    def result(self, seconds: float) -> PolicyResult:
        spec = self._spec
        frame = pd.DataFrame({"window": self._keys, "loss": self._lost})[self._labelled]
        by_window = frame.groupby("window")["loss"].agg(["mean", "size"])
        weeks = (self._end - self._begin) / timedelta(weeks=1)
        told = sum(one.severity != "info" for one in self._record.incidents)
        return PolicyResult(
            policy=self._policy.name,
            model=spec.name,
            metric=spec.headline_loss,
            trainings=self._trainings,
            promotions=self._promotions,
            rollbacks=self._rollbacks,
            alerts_per_week=told / weeks if self._policy.responds else None,
            mean_loss=float(frame["loss"].mean()),
            worst_loss=float(by_window["mean"].max()),
            worst_window=str(by_window["mean"].idxmax()),
            windows=tuple(map(str, by_window.index)),
            losses=tuple(by_window["mean"].astype(float)),
            rows=tuple(by_window["size"].astype(int)),
            steps=tuple(self._steps),
            seconds=seconds,
        )

    def _live(self, window: str, now: datetime) -> set[str]:
        """Answer a window's rows, and hand in the labels that are known at its end; which windows that touches."""
        own = np.flatnonzero(self._keys == window)
        if len(own):
            self._traffic.write_part("predictions", window, "replay", self._answers(own))
        due = np.flatnonzero(~self._posted & (self._observed <= now).to_numpy() & (self._keys <= window))
        self._posted[due] = True
        keys = self._keys[due]
        for key in np.unique(keys):
            self._traffic.write_part("labels", str(key), "replay", self._labels(due[keys == key]))
        touched = {window, *map(str, np.unique(keys))}
        self._traffic.update_contents(touched)
        for key in sorted(touched):
            compact(self._spec, self._stores, key)
        return touched

    def _answers(self, own: "np.ndarray[Any, np.dtype[np.intp]]") -> pa.Table:
        spec, rows = self._spec, self._rows.iloc[own]
        plan = self._plan()
        scorer, classes = self._scorer(plan)
        features = rows[list(spec.feature_names)]
        seen = features.copy()
        for name in plan.masked:
            seen[name] = pd.Series(None, index=seen.index, dtype=seen[name].dtype)
        output = scorer(seen)
        truth = self._labelled[own]
        losses = METRICS[spec.headline_loss].rows
        assert losses is not None
        encoded = encode_label(spec, rows[spec.label.column][truth], classes)
        self._lost[own[truth]] = losses(encoded, output[truth], spec.evaluation.decision_threshold)
        missing, names = seen.isna().to_numpy(), np.array(spec.feature_names)
        times = pa.array(rows[spec.event_time]).cast(TIME)
        count = len(rows)
        plain: dict[str, Any] = {
            "id": [f"r{at}" for at in own],
            "entity": rows[spec.entity_key].astype(str).tolist(),
            "event_time": times,
            "served_at": times,
            "version": pa.array(np.full(count, plan.champion.version), pa.int64()),
            "bundle": [plan.champion.bundle] * count,
            "release": pa.array(np.full(count, plan.release), pa.int64()),
            "rollout": [plan.rollout] * count,
            "role": ["champion"] * count,
            "status": pa.array(np.full(count, 200), pa.int64()),
            "error": [""] * count,
            "latency_ms": np.zeros(count),
            "imputed": [",".join(names[one]) for one in missing],
            "out_of_domain": [""] * count,
        }
        for feature in spec.features:
            kind = pa.string() if feature.is_category else pa.float64()
            plain[f"{FEATURE}{feature.name}"] = pa.array(features[feature.name], kind, from_pandas=True)
        for k in range(output.shape[1]):
            plain[f"{OUTPUT}{k}"] = np.ascontiguousarray(output[:, k])
        return pa.table(plain)

    def _labels(self, which: "np.ndarray[Any, np.dtype[np.intp]]") -> pa.Table:
        values = self._rows[self._spec.label.column].iloc[which]
        text = any(isinstance(one, str) for one in self._spec.label.classes or ())
        observed = pa.array(self._observed.iloc[which]).cast(TIME)
        nothing = pa.nulls(len(which), pa.string())
        columns = {
            "id": pa.array([f"r{at}" for at in which]),
            "entity": nothing,
            "event_time": pa.nulls(len(which), TIME),
            "name": pa.array([self._spec.label.column] * len(which)),
            "number": pa.nulls(len(which), pa.float64()) if text else pa.array(values.astype(float)),
            "text": pa.array(values.astype(str)) if text else nothing,
            "observed_at": observed,
            "received_at": observed,
            "revision": pa.array(np.zeros(len(which), np.int64)),
        }
        return pa.table({name: columns[name] for name in LABEL.names}, schema=LABEL)

    def _scorer(self, plan: ReleasePlan) -> tuple[Callable[[pd.DataFrame], Floats], tuple[str | int, ...]]:
        bundle = self._stores.bundles.get(plan.champion.bundle)
        names = [feature.name for feature in bundle.manifest.features]
        if bundle.manifest.uncompiled is not None:
            pipeline = self._stores.registry.load(self._spec.name, plan.champion.version)
            return lambda rows: predict(pipeline, rows[names]), bundle.manifest.classes
        compiled = CompiledScorer.from_files(bundle.files["scorer.npz"], bundle.files["scorer.json"])
        return (
            lambda rows: compiled.score_columns({name: rows[name].to_numpy() for name in names}),
            bundle.manifest.classes,
        )

    def _plan(self) -> ReleasePlan:
        plan = self._stores.releases.current(self._spec.name)
        assert plan is not None
        return plan

    def _look(self, window: str, touched: set[str]) -> None:
        self._monitor.forget(touched)
        self._monitor.data_health(window)
        for key in sorted(touched):
            self._monitor.model_health(key)

    def _respond(self, window: str) -> None:
        """Decide as in service, until nothing more is to be done about this window."""
        spec, now = self._spec, self._windows.bounds(window)[1]
        done: set[str] = set()
        while True:
            seen = situation(spec, self._stores, window, readings=self._monitor)
            response = respond(spec, seen, self._record)
            if response.asks_for_rivals:
                recent = self._windows.last(window, spec.monitoring.confirm.of + _label_windows(spec, self._delay))
                found = rivals(spec, self._stores, recent, readings=self._monitor)
                response = respond(spec, msgspec.structs.replace(seen, rivals=found), self._record)
            entries = entries_of(spec, seen, response, self._record, actor="replay", at=now)
            self._record = after(self._record, entries)
            waiting = [one for one in self._record.open_decisions if one.id not in done]
            if not waiting:
                return
            for decision in waiting:
                done.add(decision.id)
                self._carry_out(decision, now)

    def _carry_out(self, decision: Decision, now: datetime) -> None:
        """Do at once what a decision asks for; also what a person would be asked about."""
        what = decision.what
        self._write(decision.id, Started(1), now)
        outcome: Outcome = "done"
        detail = ""
        if what.action == "retrain":
            outcome, detail = self._train(now, request_of(what.details))
        elif what.action in ("roll back", "freeze") and "version" in what.details:
            outcome, detail = self._back_to(int(what.details["version"]), decision, now)
        elif what.action == "impute":
            outcome, detail = self._mask(decision, now)
        if what.action == "freeze":
            self._write(self._spec.name, Frozen(what.reason), now)
        self._steps.append(Step(now, what.action, outcome, what.reason))
        self._write(decision.id, Ended(outcome, 1, "", detail), now)

    def _back_to(self, version: int, decision: Decision, now: datetime) -> tuple[Outcome, str]:
        what, former = decision.what, self._plan().champion.version
        try:
            changed = roll_back(
                self._spec,
                self._stores,
                version,
                reason=what.reason,
                decided_by="replay",
                now=now,
                origin=decision.id,
            )
        except ChangeRefused as refusal:
            return "refused", str(refusal)
        self._write(
            self._spec.name, Released(changed.plan.release, version, former, "rollback", True, what.reason), now
        )
        self._mitigated(decision, "rolled back", now)
        self._rollbacks += 1
        return "done", f"version {version} serves again"

    def _mask(self, decision: Decision, now: datetime) -> tuple[Outcome, str]:
        what = decision.what
        features = tuple(name for name in what.details["masked"].split(",") if name)
        try:
            mask(
                self._spec,
                self._stores,
                features,
                reason=what.reason,
                decided_by="replay",
                now=now,
                origin=decision.id,
            )
        except ChangeRefused as refusal:
            return "refused", str(refusal)
        self._mitigated(decision, "imputed", now)
        return "done", ""

    def _mitigated(self, decision: Decision, how: str, now: datetime) -> None:
        for incident in decision.what.incidents:
            self._write(incident, Mitigated(how, decision.id), now)

    def _train(self, as_of: datetime, request: TrainingRequest, *, first: bool = False) -> tuple[Outcome, str]:
        """Train, judge and release as `<model>_lifecycle` does."""
        outcome, detail, plan = train_and_release(
            self._spec, self._stores, as_of, request, source=self._source, watched=self._policy.responds
        )
        if first and outcome != "done":
            raise ValueError(f"{self._spec.name}: the first model was not released: {detail}")
        if not first:
            self._trainings += 1
            self._steps.append(Step(as_of, f"train ({request.trigger})", outcome, detail))
        if plan is None:
            if outcome == "refused":
                self._write(self._spec.name, Refused(None, detail), as_of)
            return outcome, detail
        if not first:
            self._promotions += 1
        former = None if plan.last_good is None else plan.last_good.version
        self._write(
            self._spec.name,
            Released(plan.release, plan.champion.version, former, "immediate", True, plan.reason),
            as_of,
        )
        return outcome, detail

    def _write(self, subject: str, fact: Fact, now: datetime) -> None:
        self._record = self._record.after(Entry(self._spec.name, subject, fact, "replay", now, now))


def train_and_release(
    spec: ModelSpec,
    stores: Stores,
    as_of: datetime,
    request: TrainingRequest,
    *,
    source: pd.DataFrame | None = None,
    watched: bool = True,
) -> tuple[Outcome, str, ReleasePlan | None]:
    """What `<model>_lifecycle` does, in this process and without a Bento: the outcome, why, and the new plan if there is one."""
    history = read_history(spec, stores, as_of, request, source=source)
    validation = validate(spec, history.frame)
    valid = validation.valid
    valid.attrs = dict(history.frame.attrs)
    if validation.quarantined_share > spec.quality.max_quarantined_share or len(valid) < spec.quality.min_rows:
        return (
            "refused",
            f"{len(validation.quarantine)} of {validation.rows} rows are quarantined, {len(valid)} left",
            None,
        )
    asked = requested(spec, valid)
    imputation, _ = plan_imputation(asked, valid, as_of)
    candidate, _, _ = train(asked, stores, valid, imputation, as_of, history.data_hash, ("replay", "replay"))
    evaluation = evaluate(asked, stores, valid, candidate).evaluation
    try:
        require_verdict(candidate, evaluation)
        final = final_fit(asked, stores, valid, candidate)
    except ReleaseRefused as refusal:
        return ("unchanged" if not_better(request, evaluation) else "refused"), str(refusal), None
    plan, is_new = plan_release(asked, stores, candidate, evaluation, final, "replay", watched=watched)
    if not is_new:
        return "unchanged", "the champion is that very model", None
    stores.releases.publish(plan)
    stores.registry.move_alias(spec.name, AliasMove("champion", plan.champion.version, as_of, plan.reason))
    return "done", plan.reason, plan


def _label_windows(spec: ModelSpec, delay: timedelta) -> int:
    """How many windows it takes until labels are there."""
    calendar = Windows.of(spec)
    begin, end = calendar.bounds(calendar.first)
    return math.ceil(delay / (end - begin))


def not_better(request: TrainingRequest, evaluation: Evaluation) -> bool:
    """Was a candidate, which drift alone asked for, held back only because it is not better than the champion?"""
    failed = [gate.gate for gate in evaluation.gates if not gate.passed]
    return (
        request.trigger == "drift"
        and bool(failed)
        and all(name.endswith("_not_worse_than_champion") for name in failed)
    )


@dataclass(frozen=True)
class ReplayStores(Stores):
    """Stores in a folder, with the registry in memory: fitted pipelines are what a replay makes most of."""

    @cached_property
    def registry(self) -> Registry:
        return MemoryRegistry("memory:", "")


@dataclass(frozen=True)
class MemoryRegistry(Registry):
    """A registry that is gone with its process."""

    _pipelines: dict[int, Pipeline] = field(default_factory=dict)
    _tags: dict[int, dict[str, str]] = field(default_factory=dict)
    _aliases: dict[str, int] = field(default_factory=dict)

    def register(
        self, model: str, run_id: str, name: str, pipeline: Pipeline, trusted: tuple[str, ...], tags: dict[str, str]
    ) -> int:
        """Keep a fitted pipeline as the next version."""
        version = len(self._pipelines) + 1
        self._pipelines[version], self._tags[version] = pipeline, dict(tags)
        return version

    def load(self, model: str, version: int) -> Pipeline:
        return self._pipelines[version]

    def version(self, model: str, version: int) -> VersionFacts:
        return VersionFacts(version, "replay", 0, self._tags[version])

    def versions(self, model: str) -> tuple[VersionFacts, ...]:
        return tuple(self.version(model, version) for version in self._pipelines)

    def tag(self, model: str, version: int, key: str, value: str) -> None:
        self._tags[version][key] = value

    def log_folder(self, run_id: str, folder: Path, to: str) -> None:
        """Nothing is logged."""

    def move_alias(self, model: str, move: AliasMove) -> None:
        self._aliases[move.alias] = move.version
