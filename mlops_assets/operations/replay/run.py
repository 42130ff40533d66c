"""One policy on its way through a history: the same windows, verdicts and decisions as in service."""

import math
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from mlops_assets.core.carrying import Settle, settled
from mlops_assets.core.ledger import Decision, Entry, Fact, Outcome, Record, Released, Started
from mlops_assets.core.ledger_fold import with_entry
from mlops_assets.core.metrics import METRICS, Floats
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.response import respond
from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.core.schema import validate
from mlops_assets.core.scoring.degraded import constant_output
from mlops_assets.core.scoring.scorer import CompiledScorer
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import encode_label, predict
from mlops_assets.core.training_request import TrainingRequest, request_of
from mlops_assets.operations.decided_change import change_as_decided
from mlops_assets.operations.live_traffic import compact
from mlops_assets.operations.monitor import Monitor
from mlops_assets.operations.replay.lifecycle import train_and_release
from mlops_assets.operations.replay.policy import Policy, PolicyResult, Step
from mlops_assets.operations.replay.tables import Places, label_table, prediction_table
from mlops_assets.operations.respond import after, entries_of, situation
from mlops_assets.operations.rivals import rivals
from mlops_assets.operations.stores import Stores
from mlops_assets.sources.table import read_source
from mlops_assets.stores.bundles import Bundle
from mlops_assets.stores.traffic import TrafficStore


class Run:
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

    def _answers(self, own: Places) -> pa.Table:
        spec, rows = self._spec, self._rows.iloc[own]
        plan = self._plan()
        bundle = self._stores.bundles.get(plan.champion.bundle)
        seen = rows[list(spec.feature_names)].copy()
        for name in plan.masked:
            seen[name] = pd.Series(None, index=seen.index, dtype=seen[name].dtype)
        if plan.fallen_back:
            output = np.tile(constant_output(bundle.manifest, plan.fallback_value), (len(rows), 1))
        else:
            output = self._scorer(plan, bundle)(seen)
        truth = self._labelled[own]
        losses = METRICS[spec.headline_loss].rows
        assert losses is not None
        encoded = encode_label(spec, rows[spec.label.column][truth], bundle.manifest.classes)
        self._lost[own[truth]] = losses(encoded, output[truth], spec.evaluation.decision_threshold)
        return prediction_table(spec, rows, _ids(own), seen, output, plan)

    def _labels(self, which: Places) -> pa.Table:
        return label_table(
            self._spec, _ids(which), self._rows[self._spec.label.column].iloc[which], self._observed.iloc[which]
        )

    def _scorer(self, plan: ReleasePlan, bundle: Bundle) -> Callable[[pd.DataFrame], Floats]:
        names = [feature.name for feature in bundle.manifest.features]
        if bundle.manifest.uncompiled is not None:
            pipeline = self._stores.registry.load(self._spec.name, plan.champion.version)
            return lambda rows: predict(pipeline, rows[names])
        compiled = CompiledScorer.from_files(bundle.files["scorer.npz"], bundle.files["scorer.json"])
        return lambda rows: compiled.score_columns({name: rows[name].to_numpy() for name in names})

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
        """Decide as in service, until nothing new is decided about this window."""
        spec, now = self._spec, self._windows.bounds(window)[1]
        while True:
            seen = situation(spec, self._stores, window, readings=self._monitor)
            response = respond(spec, seen, self._record)
            if response.asks_for_rivals:
                recent = self._windows.last(window, spec.monitoring.confirm.of + _label_windows(spec, self._delay))
                found = rivals(spec, self._stores, recent, readings=self._monitor)
                response = respond(spec, msgspec.structs.replace(seen, rivals=found), self._record)
            is_new = all(one.id != response.decision_id for one in self._record.decisions)
            self._record = after(self._record, entries_of(spec, seen, response, self._record, actor="replay", at=now))
            if not is_new:
                return
            for decision in self._record.open_decisions:
                self._carry_out(decision, now)

    def _carry_out(self, decision: Decision, now: datetime) -> None:
        """Do at once what a decision asks for; also what a person would be asked about."""
        what = decision.what
        self._write(decision.id, Started(1), now)
        if what.action == "retrain":
            outcome, detail = self._train(now, request_of(what.details), what.reason)
        else:
            result = change_as_decided(self._spec, self._stores, decision, now, is_last_attempt=True)
            outcome, detail, changed = result.outcome, result.detail, result.changed
            if changed is not None and changed.is_new and changed.plan.champion.version != changed.former:
                self._rollbacks += 1
                plan = changed.plan
                back = Released(plan.release, plan.champion.version, changed.former, "rollback", True, plan.reason)
                self._write(self._spec.name, back, now)
            self._steps.append(Step(now, what.action, outcome, f"{what.reason}; {detail}"))
        for subject, fact, _ in settled(self._record, decision, Settle(outcome, 1, "", detail)):
            self._write(subject, fact, now)

    def _train(
        self, as_of: datetime, request: TrainingRequest, why: str = "", *, first: bool = False
    ) -> tuple[Outcome, str]:
        """Train, judge and release as `<model>_lifecycle` does."""
        former = self._stores.releases.current(self._spec.name)
        outcome, detail, plan = train_and_release(
            self._spec, self._stores, as_of, request, source=self._source, watched=self._policy.responds
        )
        if first:
            if outcome != "done":
                raise ValueError(f"{self._spec.name}: the first model was not released: {detail}")
        else:
            self._trainings += 1
            self._promotions += plan is not None
            told = "; ".join(text for text in (why, detail) if text)
            self._steps.append(Step(as_of, f"train ({request.trigger})", outcome, told))
        if plan is not None:
            before = None if former is None else former.champion.version
            released = Released(plan.release, plan.champion.version, before, "immediate", True, plan.reason)
            self._write(self._spec.name, released, as_of)
        return outcome, detail

    def _write(self, subject: str, fact: Fact, now: datetime) -> None:
        self._record = with_entry(self._record, Entry(self._spec.name, subject, fact, "replay", now, now))


def _ids(places: Places) -> list[str]:
    return [f"r{at}" for at in places]


def _label_windows(spec: ModelSpec, delay: timedelta) -> int:
    """How many windows it takes until labels are there."""
    calendar = Windows.of(spec)
    begin, end = calendar.bounds(calendar.first)
    return math.ceil(delay / (end - begin))
