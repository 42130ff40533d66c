"""Carrying rollouts out: each look at a trial is judged, written down, and done what it comes to, once.

What it comes to is decided in `core/trials`. Safe to repeat after a stop at any point: lines of the ledger have keys, and a
change of the release plan goes by the trial and its step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from mlops_assets.core.carrying import Line, found
from mlops_assets.core.ledger import Entry, Fact, Mitigated, Record, Refused, Resolved
from mlops_assets.core.response import GATES, RUNS
from mlops_assets.core.rollout import (
    Entrant,
    Origin,
    Release,
    ReleasePlan,
    dismissed,
    outcome_of,
    promoted,
    settled,
    trial,
    widened,
)
from mlops_assets.core.sequential import Verdict
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.trials.facts import Trial, TrialBegan, TrialLooked, TrialStepped
from mlops_assets.core.trials.judging import Judged, Mode, Seen, Step, judge_trial, next_share, protocol_of
from mlops_assets.operations.carry_out import Carrier, NoRuns, Runs
from mlops_assets.operations.look import newest_judged
from mlops_assets.operations.plan_changes import Changed, ChangeFailed, ChangeRefused, History, carry_out
from mlops_assets.operations.rollback import roll_back
from mlops_assets.operations.rollouts.evidence import champion_p95, seen_in_bake, seen_in_trial, tripped
from mlops_assets.operations.rollouts.rows import stamp_of
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.whole_bundles import OutOfReach, prove, whole_bundle
from mlops_assets.stores.bundles import BundleError
from mlops_assets.stores.files import locked, make_folder

WORTH_A_LINE = 0.02  # relative growth of the samples from which a look that changes nothing is written down
BAKE = f"{RUNS}bake"  # the cause of incidents about a standby that can be asked no more
BUNDLE = f"{RUNS}challenger"  # and about one whose bundle is out of reach when it is to go on
FORWARD: frozenset[Step] = frozenset({"canary", "widen", "promote"})


@dataclass(frozen=True)
class Advanced:
    """What a rollout has come to at this time.

    Attributes
    ----------
    said
        In a line.
    looked
        The look, where one was written down.
    trial
        As it is now; None where nothing is on trial.
    stamp
        What it was based on: handed to the next call, it keeps that from looking at the same again.
    """

    said: str
    looked: TrialLooked | None = None
    trial: Trial | None = None
    stamp: str = ""


class Rollouts:
    """The rollout of one model, in the name of `actor`."""

    def __init__(
        self, spec: ModelSpec, stores: Stores, clock: Callable[[], datetime], actor: str, runs: Runs | None = None
    ) -> None:
        self._spec, self._stores, self._clock, self._actor = spec, stores, clock, actor
        self._runs = runs or NoRuns()

    def advance(self, before: str = "") -> Advanced:
        """Look at the trial that is under way, if there is one, and do what follows.

        Raises
        ------
        LedgerUnavailable, OSError
            When a store is out of reach; then the rest is left to the next time.
        """
        make_folder(self._stores.home.root)
        with locked(self._stores.home.root / f".rollout-{self._spec.name}.lock"):
            return self._advance(before)

    def looks(self, of: Trial | None) -> tuple[TrialLooked, ...]:
        """Those of a trial that were written down, oldest first."""
        name = None if of is None else of.id
        lines = self._stores.ledger.entries(self._spec.name, kinds=("trial looked",))
        facts = (line.entry.fact for line in lines if line.entry.subject == name)
        return tuple(fact for fact in facts if isinstance(fact, TrialLooked))

    def _advance(self, before: str) -> Advanced:
        plan = self._stores.releases.current(self._spec.name)
        if plan is None:
            return Advanced("nothing is released yet")
        history = self._stores.releases.history(self._spec.name)
        under_way = self._record.open_trial
        if under_way is not None and (over := self._finish_what_was_begun(under_way, history)) is not None:
            return over
        if under_way is not None and (why := _gone(under_way, plan)) is not None:
            self._stepped(under_way, "superseded", plan.release, why)
            under_way = None
        if under_way is None and plan.challenger is None:
            return Advanced("nothing is on trial")
        try:
            return self._look(under_way or self._begin(history), history, before)
        except BundleError as damage:  # of the champion: what becomes of that is not the trial's to decide
            return Advanced(f"nothing is compared beside version {plan.champion.version}: {damage}", None, under_way)

    def _begin(self, history: Sequence[ReleasePlan]) -> Trial:
        """Write down by which protocol the trial goes; from then on it is fixed."""
        plan = history[-1]
        assert plan.challenger is not None
        version, first = plan.challenger.version, plan
        for earlier in reversed(history):
            if earlier.challenger is None or earlier.challenger.version != version:
                break
            first = earlier
        manifest = whole_bundle(self._stores, self._spec.name, plan.champion).manifest
        expected = manifest.metrics.get(self._spec.headline_loss)
        protocol = protocol_of(self._spec, expected, champion_p95(self._spec, self._stores))
        name = f"{self._spec.name}/trial/{first.release}"
        began = TrialBegan(first.release, version, plan.champion.version, first.decided_by, protocol)
        self._write([(name, began, f"{name} begun")])
        return next(one for one in self._record.trials if one.id == name)

    def _look(self, under_way: Trial, history: Sequence[ReleasePlan], before: str) -> Advanced:
        plan, protocol = history[-1], under_way.began.protocol
        stamp = f"{stamp_of(self._spec, self._stores)} {tripped(self._stores, plan, self._clock())}"
        is_held = self._record.frozen is not None
        if stamp == before and (is_held or not under_way.due):
            return Advanced("nothing new", None, under_way, stamp)
        mode: Mode = "bake" if under_way.promoted else _mode(plan)
        share = 1.0 if plan.challenger is None else plan.challenger.share
        if mode != "bake" and not protocol.has(mode):
            why = f"version {under_way.began.version} is left to a person: its protocol knows no {mode}"
            return Advanced(why, None, under_way, stamp)
        seen = self._seen(under_way, history)
        judged = judge_trial(protocol, mode, share, seen, under_way.said.get(mode, {}))
        looked = self._note(under_way, mode, share, seen, judged)
        under_way = self._trial(under_way)
        if judged.step == "keep looking":
            return Advanced(f"{mode} at {share:g}: {judged.reason}", looked, under_way, stamp)
        if judged.step in FORWARD and is_held:
            return Advanced(f"frozen: {judged.step} waits", looked, under_way, stamp)
        said = self._do(under_way, history, judged.step, judged.reason)
        return Advanced(said, looked, self._trial(under_way), "")

    def _seen(self, under_way: Trial, history: Sequence[ReleasePlan]) -> Seen:
        if not under_way.promoted:
            return seen_in_trial(self._spec, self._stores, under_way, history)
        since, _ = outcome_of(history, f"{under_way.id}/promote")
        return seen_in_bake(self._spec, self._stores, under_way, history[-1], since or history[-1])

    def _note(self, under_way: Trial, mode: Mode, share: float, seen: Seen, judged: Judged) -> TrialLooked | None:
        """Write a look down that says something new, or rests on clearly more than the last one."""
        last, is_lost = under_way.looked, seen.incomparable is not None
        was_lost = last is not None and last.seen.incomparable is not None
        if last is not None and (last.stage, last.share) == (mode, share):
            said = {name: one.verdict for name, one in last.looks.items()}
            same = (said, last.step, was_lost) == (judged.verdicts, judged.step, is_lost)
            if same and seen.samples <= last.seen.samples * (1 + WORTH_A_LINE):
                return None
        looked = TrialLooked(mode, share, seen, judged.looks, judged.step, judged.reason)
        key = f"{under_way.id} look {under_way.looks + 1}"
        told: list[Line] = []
        if is_lost and not was_lost:
            told = [found(self._record, BAKE, f"version {under_way.began.version}: {judged.reason}", "warning", key)]
        elif was_lost and not is_lost:
            told = _resolved(self._record, BAKE, "the former champion is there again")
        self._write([(under_way.id, looked, key), *told])
        return looked

    def _do(self, under_way: Trial, history: Sequence[ReleasePlan], step: Step, reason: str) -> str:
        """Change the plan as a look asks for, and write down that it is done."""
        version = under_way.began.version
        try:
            changed = self._change(under_way, history, step, reason)
        except OutOfReach as error:
            told = f"{step} of version {version} waits until its bundle can be had"
            if self._record.incident_of(BUNDLE) is None:
                key = f"{under_way.id} {step} waits"
                self._write([found(self._record, BUNDLE, f"{told}: {error}", "warning", key)])
            return f"{told}: {error}"
        except BundleError as error:
            return self._do(under_way, history, "dismiss", f"it cannot be relied on: {error}")
        except ChangeRefused as error:
            if step == "roll back":
                why = f"version {version} is worse, and cannot be taken back: {error}"
                self._write([found(self._record, f"{RUNS}roll back", why, "critical", under_way.id)])
                self._stepped(under_way, "superseded", history[-1].release, why)
            return f"{step} of version {version} was refused: {error}"
        except ChangeFailed as error:
            newest = self._stores.releases.history(self._spec.name)
            made, taken_back = outcome_of(newest, self._origin(under_way, step, reason).rollout)
            if made is not None and taken_back and step in FORWARD:
                return self._do(under_way, newest, "dismiss", f"it does not hold in service: {error}")
            return f"{step} of version {version} is tried again: {error}"
        self._stepped(under_way, step, changed.plan.release, reason)
        where = f"{changed.workers} workers have it" if changed.workers else "no worker runs"
        return f"version {version}: {step} with release {changed.plan.release}; {reason}; {where}"

    def _change(self, under_way: Trial, history: Sequence[ReleasePlan], step: Step, reason: str) -> Changed:
        spec, stores = self._spec, self._stores
        origin, protocol = self._origin(under_way, step, reason), under_way.began.protocol
        if step == "roll back":
            return self._roll_back(under_way, history, origin)
        until = self._now() + timedelta(seconds=protocol.stage("bake").patience_s)

        def following(past: History) -> ReleasePlan:
            current = past[-1]
            match step:
                case "canary":
                    first = protocol.stage("canary").shares[0]
                    return trial(current, self._entrant(current), "canary", first, origin, current.salt)
                case "widen":
                    return widened(current, next_share(protocol, _mode(current), _share(current)), origin)
                case "promote":
                    return promoted(current, self._entrant(current), until, origin)
                case "settle" | "not comparable":
                    return settled(current, origin)
                case _:
                    return dismissed(current, origin, withdraw=step == "dismiss")

        return carry_out(spec, stores, origin, following)

    def _roll_back(self, under_way: Trial, history: Sequence[ReleasePlan], origin: Origin) -> Changed:
        """Back to the standby that the promotion left, or to the last good one before it where that cannot serve."""
        promotion, _ = outcome_of(history, f"{under_way.id}/promote")
        standby = None if promotion is None else promotion.standby

        def to(version: int | None) -> Changed:
            return roll_back(
                self._spec,
                self._stores,
                version,
                reason=origin.reason,
                decided_by=origin.decided_by,
                now=origin.decided_at,
                origin=origin.rollout,
                instead_of=under_way.began.version,
            )

        if standby is None:
            return to(None)
        try:
            return to(standby.version)
        except ChangeRefused:
            return to(None)

    def _entrant(self, plan: ReleasePlan) -> Entrant:
        if plan.challenger is None:
            raise ValueError(f"model {plan.model!r}: nothing is on trial in release {plan.release}")
        release = Release(plan.challenger.version, plan.challenger.bundle)
        return prove(self._stores, self._spec.name, release).entrant()

    def _origin(self, under_way: Trial, step: Step, reason: str) -> Origin:
        """Where a step's plan comes from: the same one each time, so that it is made once."""
        looked = under_way.looked
        # A share is left once: what widens it is named by the share that it leaves.
        left = f" from {looked.share:g}" if step == "widen" and looked is not None else ""
        return Origin(f"{under_way.id}/{step}{left}", reason, self._actor, self._clock())

    def _finish_what_was_begun(self, under_way: Trial, history: Sequence[ReleasePlan]) -> Advanced | None:
        """Do the rest of a step whose plan was published when somebody stopped; None where there is none."""
        last = under_way.looked
        if last is None or not under_way.due:
            return None
        steps: tuple[Step, ...] = (last.step, "dismiss")
        for step in steps:
            made, taken_back = outcome_of(history, self._origin(under_way, step, "").rollout)
            if made is not None and not taken_back:
                return Advanced(self._do(under_way, history, step, last.reason), None, self._trial(under_way))
        return None

    def _stepped(self, under_way: Trial, step: Step | Literal["superseded"], release: int, reason: str) -> None:
        if step in ("promote", "roll back"):
            # Before the step is: whoever stops in between finds the step undone, and comes by here again.
            Carrier(self._spec, self._stores, self._runs, self._clock, self._actor).note_releases()
        fact, key = TrialStepped(step, release, reason), f"{under_way.id} {step} {release}"
        had = _resolved(self._record, BUNDLE, f"version {under_way.began.version}: {step} with release {release}")
        self._write([(under_way.id, fact, key), *self._what_follows(under_way, step, reason), *had])

    def _what_follows(self, under_way: Trial, step: str, reason: str) -> list[Line]:
        record, version = self._record, under_way.began.version
        if step == "promote":
            return [*_mitigated(record, under_way, reason), *_resolved(record, GATES, reason)]
        over = _resolved(record, BAKE, f"the bake of version {version} is over ({step}): {reason}")
        if step in ("dismiss", "inconclusive", "roll back"):
            why = f"version {version} was not promoted ({step}): {reason}"
            if step == "roll back":
                why = f"version {version} was taken back: {reason}"
            refused = (self._spec.name, Refused(version, why), f"{under_way.id} refused")
            return [refused, found(record, GATES, why, "warning", under_way.id), *over]
        return over

    def _write(self, lines: Sequence[tuple[str, Fact, str]]) -> None:
        at, now = self._clock(), self._now()
        model, actor = self._spec.name, self._actor
        self._stores.ledger.record(*(Entry(model, subject, fact, actor, at, now, key) for subject, fact, key in lines))

    def _now(self) -> datetime:
        """By the events' clock: the newest window that was judged, or what the champion was trained until."""
        plan = self._stores.releases.current(self._spec.name)
        judged = newest_judged(self._spec, self._stores)[1]
        known = [one for one in (judged, None if plan is None else plan.as_of) if one is not None]
        return max(known, default=self._clock())

    def _trial(self, one: Trial) -> Trial:
        return next(known for known in self._record.trials if known.id == one.id)

    @property
    def _record(self) -> Record:
        return self._stores.ledger.of(self._spec.name)


def looks_again(began: TrialBegan, looks: Sequence[TrialLooked]) -> tuple[str, ...]:
    """Judge the looks of a trial once more, from what was seen; where something else comes out than was written down."""
    said: dict[Mode, dict[str, Verdict]] = {}
    wrong = []
    for number, one in enumerate(looks, 1):
        judged = judge_trial(began.protocol, one.stage, one.share, one.seen, said.get(one.stage, {}))
        if (judged.step, judged.looks) != (one.step, one.looks):
            wrong.append(f"look {number}: {judged.step} instead of {one.step}")
        said[one.stage] = judged.verdicts
    return tuple(wrong)


def _gone(under_way: Trial, plan: ReleasePlan) -> str | None:
    """Why a trial is over without the rollout's doing; None while it is not."""
    version = under_way.began.version
    if under_way.promoted:
        if plan.champion.version != version:
            return f"version {plan.champion.version} answers with release {plan.release}: {plan.reason}"
        if plan.challenger is not None:
            return f"version {plan.challenger.version} is on trial since release {plan.release} or before"
        return None if plan.standby is not None else f"its standby is gone with release {plan.release}: {plan.reason}"
    if plan.challenger is not None and plan.challenger.version != version:
        return f"version {plan.challenger.version} is tried in its place since release {plan.release} or before: {plan.reason}"
    if plan.challenger is None:
        return f"version {version} is not on trial any more in release {plan.release}: {plan.reason}"
    return None


def _mitigated(record: Record, under_way: Trial, how: str) -> list[Line]:
    """What the decision was about that had asked for this version."""
    run = under_way.began.decided_by.removeprefix("run:")
    lines: list[Line] = []
    for decision in (one for one in record.decisions if run in one.runs):
        told = f"version {under_way.began.version} was promoted: {how}"
        lines += [
            (one.id, Mitigated(told, decision.id), f"{one.id} mitigated")
            for one in record.open_incidents
            if one.id in decision.what.incidents and one.mitigated_at is None
        ]
    return lines


def _resolved(record: Record, cause: str, why: str) -> list[Line]:
    known = record.incident_of(cause)
    return [] if known is None else [(known.id, Resolved(why), f"{known.id} resolved")]


def _mode(plan: ReleasePlan) -> Mode:
    assert plan.challenger is not None
    return plan.challenger.mode


def _share(plan: ReleasePlan) -> float:
    assert plan.challenger is not None
    return plan.challenger.share
