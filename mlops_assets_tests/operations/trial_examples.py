"""A released model with a version on trial beside it, and a log in which each answers as well as a test says."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mlops_assets.core.contract import raw_rows
from mlops_assets.core.ledger import Record
from mlops_assets.core.records import LabelRecord, PredictionRecord
from mlops_assets.core.rollout import Entrant, Origin, Release, ReleasePlan, Split, trial
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import predict
from mlops_assets.core.trials.facts import Trial, TrialBegan, TrialLooked, TrialStepped
from mlops_assets.core.trials.judging import Seen
from mlops_assets.operations.live_traffic import ingest
from mlops_assets.operations.rollouts.advance import Advanced, Rollouts, looks_again
from mlops_assets.operations.rollouts.evidence import seen_in_trial
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.prediction_log import LogWriter
from mlops_assets_tests.operations.rollback_examples import MemoryRegistry, registry_of, released, stores_in
from mlops_assets_tests.serving.factory import small_model, small_rows, small_spec

SHADOW = {"strategy": "shadow-then-canary", "shadow": {"min_samples": 50}, "bake": "2d"}
CANARY = {"strategy": "canary", "canary": {"shares": [0.2, 0.5], "min_samples": 20}, "bake": "2d"}


class Trying:
    """Version 1 serves; `start` puts version 2 on trial. Rows are a minute apart, of so many `entities`, in turn."""

    def __init__(self, home: Path, stores: Stores | None = None, **release: Any) -> None:
        self.spec = self.declared(**release)
        self.stores = stores or stores_in(home)
        if isinstance(self.stores.registry, MemoryRegistry):
            released(self.stores, 1)
        self.random, self.asked = np.random.default_rng(0), 0
        self.segments = 0
        self.entities = 10**9

    @staticmethod
    def declared(**release: Any) -> ModelSpec:
        """The declaration alone."""
        return small_spec(release={**SHADOW, **release})

    @property
    def plan(self) -> ReleasePlan:
        plan = self.stores.releases.current("delay")
        assert plan is not None
        return plan

    @property
    def history(self) -> tuple[ReleasePlan, ...]:
        return self.stores.releases.history("delay")

    @property
    def record(self) -> Record:
        return self.stores.ledger.of("delay")

    @property
    def trial(self) -> Trial:
        return self.record.trials[-1]

    def bundled(self, version: int) -> Entrant:
        model = small_model(version=version)
        manifest = msgspec.structs.replace(model.manifest, fallback_value=0.25, metrics={"brier": 0.15})
        bundle = self.stores.bundles.put(manifest, model.files)
        if isinstance(self.stores.registry, MemoryRegistry):
            registry_of(self.stores).bundles[version] = bundle
        return Entrant(Release(version, bundle), model.features, 0.25, manifest.as_of)

    def start(self, version: int = 2, decided_by: str = "run:lifecycle") -> ReleasePlan:
        in_shadow = self.spec.release.strategy != "canary"
        share = self.spec.release.shadow.share if in_shadow else self.spec.release.canary.shares[0]
        origin = Origin(f"r-{version}", "the gates passed", decided_by, datetime.now(UTC))
        mode: Any = "shadow" if in_shadow else "canary"
        plan = trial(self.plan, self.bundled(version), mode, share, origin, "salt")
        self.stores.releases.publish(plan)
        return plan

    def log(
        self,
        rows: int,
        champion: float = 0.8,
        challenger: float = 0.8,
        *,
        labels: bool = True,
        identical: bool = False,
        **changes: Any,
    ) -> None:
        """So many requests, the next entities; both are right with these probabilities. Ends in the lake, in no table yet.

        Identical versions give the same answers in shadow.
        """
        plan, now = self.plan, datetime.now(UTC)
        tried = plan.challenger
        records: list[Any] = []
        split = None if tried is None else Split(plan.salt, tried.share)
        for _ in range(rows):
            self.asked += 1
            entity, at = f"E{self.asked % self.entities}", self.spec.live_from + timedelta(minutes=self.asked)
            truth = int(self.random.random() < 0.4)
            theirs = tried is not None and split is not None and split(entity)
            answers = tried is not None and theirs and tried.mode == "canary"
            who, right = (tried, challenger) if answers and tried is not None else (plan.champion, champion)
            record = PredictionRecord(
                id=f"id-{self.asked}",
                model="delay",
                version=who.version,
                bundle=who.bundle,
                release=plan.release,
                rollout=plan.rollout,
                role="challenger" if answers else "champion",
                event_time=at,
                served_at=now,
                entity=entity,
                output=self._output(truth, right),
                latency_ms=1.5,
            )
            records.append(record)
            if tried is not None and theirs and tried.mode == "shadow":
                output = record.output if identical else self._output(truth, challenger)
                shadow = {"version": tried.version, "bundle": tried.bundle, "role": "shadow", "output": output}
                records.append(msgspec.structs.replace(record, **{**shadow, **changes}))
            elif answers:
                records[-1] = msgspec.structs.replace(record, **changes)
            if labels:
                known = at + timedelta(hours=1)
                records.append(LabelRecord("delay", "outcome", truth, known, now, id=record.id))
        self.write(*records)

    def log_real(self, rows: int, *, truth_of: int) -> None:
        """Requests that the champion answers itself, and labels that are what a version would have said."""
        plan, now = self.plan, datetime.now(UTC)
        champion, oracle = small_model(version=plan.champion.version), small_model(version=truth_of)
        fresh = small_rows("binary", rows, seed=77)
        features = fresh[list(champion.features)]
        outputs = predict(champion.pipeline, features)
        truths = predict(oracle.pipeline, features)[:, 1] >= champion.manifest.threshold
        raw = raw_rows(champion.manifest.features, fresh)
        records: list[Any] = []
        for place in range(rows):
            self.asked += 1
            at = self.spec.live_from + timedelta(minutes=self.asked)
            record = PredictionRecord(
                id=f"id-{self.asked}",
                model="delay",
                version=plan.champion.version,
                bundle=plan.champion.bundle,
                release=plan.release,
                rollout=plan.rollout,
                role="champion",
                event_time=at,
                served_at=now,
                entity=f"E{self.asked}",
                features=raw[place],
                output=tuple(outputs[place].tolist()),
            )
            known = at + timedelta(hours=1)
            records += [record, LabelRecord("delay", "outcome", int(truths[place]), known, now, id=record.id)]
        self.write(*records)

    def write(self, *records: Any) -> None:
        self.segments += 1
        writer = LogWriter(self.stores.home.prediction_log, f"w{self.segments}")
        writer.append(records)
        writer.close()
        ingest(self.stores, [self.spec])

    def advance(self, before: str = "") -> Advanced:
        return Rollouts(self.spec, self.stores, lambda: datetime.now(UTC), "sensor:delay_rollout").advance(before)

    def until_rest(self, most: int = 8) -> list[str]:
        """Advance until nothing is done any more; the steps that were done."""
        for _ in range(most):
            done = len(self.history)
            self.advance()
            if len(self.history) == done:
                break
        return self.steps

    @property
    def steps(self) -> list[str]:
        facts = (line.entry.fact for line in self.stores.ledger.entries("delay"))
        return [fact.step for fact in facts if isinstance(fact, TrialStepped)]

    def _output(self, truth: int, right: float) -> tuple[float, float]:
        answer = truth if self.random.random() < right else 1 - truth
        probability = 0.75 if answer else 0.25
        return (1 - probability, probability)


def facts(trying: Trying, kind: type) -> list[object]:
    """What of this kind the ledger holds, oldest first."""
    return [line.entry.fact for line in trying.stores.ledger.entries("delay") if isinstance(line.entry.fact, kind)]


def assert_replays(trying: Trying) -> None:
    """Every look that is written down comes to the same again, and the ledger is whole."""
    [began] = [one for one in facts(trying, TrialBegan) if isinstance(one, TrialBegan)][-1:]
    looks = [one for one in facts(trying, TrialLooked) if isinstance(one, TrialLooked)]
    assert looks
    assert looks_again(began, looks) == ()
    assert trying.stores.ledger.verify().problem is None


def promoted(tmp_path: Path) -> Trying:
    """Version 2 has taken over after a shadow, and version 1 is its standby."""
    trying = Trying(tmp_path, strategy="shadow")
    trying.start()
    trying.log(800, champion=0.75, challenger=0.9)
    assert trying.until_rest() == ["promote"]
    return trying


class Asked:
    """Requests before a trial and, once it has begun, to both sides of it, written down one by one.

    Each is a minute of event time and a second of service after the one before.
    """

    def __init__(self, home: Path, **release: Any) -> None:
        self.trying = Trying(home, **release)
        self.records: list[Any] = []
        self.minutes = self.count = 0
        self.first_served_at = datetime.now(UTC)

    def begin(self) -> "Asked":
        """Put version 2 on trial; from then on requests belong to the trial."""
        self.trying.start()
        self.trying.advance()
        return self

    def __call__(
        self,
        entity: str | None,
        role: str = "champion",
        error: str | None = None,
        *,
        status: int = 200,
        wrong: bool = False,
        minutes: int | None = None,
        label: bool = True,
        also_shadow: bool = False,
    ) -> str:
        """Ask about an entity; the label is 1 and known an hour later. Returns the request's id."""
        plan, spec = self.trying.plan, self.trying.spec
        self.minutes, self.count = self.minutes + 1, self.count + 1
        at = spec.live_from + timedelta(minutes=self.minutes if minutes is None else minutes)
        now, other = self.first_served_at + timedelta(seconds=self.count), plan.challenger
        who = other if role == "challenger" and other is not None else plan.champion
        record = PredictionRecord(
            id=f"id-{self.count}",
            model="delay",
            version=who.version,
            bundle=who.bundle,
            release=plan.release,
            rollout=plan.rollout,
            role=role,  # type: ignore[arg-type]
            event_time=at,
            served_at=now,
            entity=entity,
            output=() if status != 200 else (0.75, 0.25) if wrong else (0.25, 0.75),
            status=status,
            error=error,
        )
        self.records.append(record)
        if also_shadow and other is not None:
            shadow = {"version": other.version, "bundle": other.bundle, "role": "shadow", "output": (0.75, 0.25)}
            self.records.append(msgspec.structs.replace(record, **shadow))
        if label:
            self.records.append(LabelRecord("delay", "outcome", 1, at + timedelta(hours=1), now, id=record.id))
        return record.id

    def seen(self) -> Seen:
        self.trying.write(*self.records)
        self.records.clear()
        return seen_in_trial(self.trying.spec, self.trying.stores, self.trying.trial, self.trying.history)

    def entities(self, inside: bool, count: int) -> list[str]:
        """Entities of the challenger's share, or of the champion's."""
        plan = self.trying.plan
        assert plan.challenger is not None
        split = Split(plan.salt, plan.challenger.share)
        return list(islice((name for name in map("E{}".format, range(10_000)) if split(name) == inside), count))
