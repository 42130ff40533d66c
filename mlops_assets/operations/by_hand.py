"""What a person wants done to a model: decided in their name, with their reason, and written down like everything else."""

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from mlops_assets.core.ledger import (
    Action,
    Approved,
    Decided,
    Decision,
    Entry,
    Fact,
    Frozen,
    Record,
    Rejected,
    Retired,
    Started,
    Thawed,
)
from mlops_assets.core.response import policy_of
from mlops_assets.core.spec import ModelSpec, format_duration
from mlops_assets.core.training_request import TrainingRequest
from mlops_assets.operations import rollback
from mlops_assets.operations.carry_out import Carrier, NoRuns, decided_once, harmful
from mlops_assets.operations.decided_change import KEEPING
from mlops_assets.operations.held_trainings import resting
from mlops_assets.operations.look import newest_judged
from mlops_assets.operations.models import how_to_begin
from mlops_assets.operations.plan_changes import Changed
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.ids import new_id

_MOST_NAMED = 3
_NOTED = "which the model's response sensor writes down as long as `mlops-assets up` runs"


class NotPossible(ValueError):
    """What is wanted cannot be done now; the message says why and what can be done."""


class ByHand:
    """The wishes of one person, or of a run that they have started, about one model.

    Parameters
    ----------
    actor
        Who wants it, such as "user:ann" or "run:<id>".
    """

    def __init__(self, spec: ModelSpec, stores: Stores, actor: str, clock: Callable[[], datetime]) -> None:
        self._spec, self._stores, self._actor, self._clock = spec, stores, actor, clock

    def roll_back(
        self, reason: str, version: int | None = None, *, keep_former: bool = False, begun: str | None = None
    ) -> Decision:
        """Serve an earlier version again, at once; what became of it is in the decision that is returned.

        Parameters
        ----------
        version
            Any registered version with a bundle; left out: the last good one that can answer.
        keep_former
            The version that answers now is not withdrawn, and may return.
        begun
            Id of this very decision, when its plan has been published before anything was written down
            (`rollback.begin_roll_back`).

        Raises
        ------
        NotPossible
            When the model has no release, or is out of service.
        """
        if begun is None:
            self._require_in_service()
        details = ({} if version is None else {"version": str(version)}) | (KEEPING if keep_former else {})
        name = self._decide("roll back", reason, details, incidents=harmful(self._record), name=begun)
        carrier = Carrier(self._spec, self._stores, NoRuns(), self._clock, self._actor)
        carrier.carry_out(name)
        carrier.note_releases()
        return self._decision(name)

    def retrain(
        self,
        reason: str,
        request: TrainingRequest,
        as_of: datetime | None = None,
        *,
        begins: bool = False,
    ) -> Decision:
        """Decide a training, which the sensor of the response carries out; with `begins`, the caller does so at once.

        Raises
        ------
        NotPossible
            When the model is out of service, or another training is under way or wanted already, unless that one waits for the
            end of a trial.
        """
        if self._record.retired is not None:
            raise self._out_of_service()
        record = self._record
        held = resting(self._spec, self._stores, record)
        others = [one for one in record.open_decisions if one.what.action == "retrain" and one not in held]
        if others:
            one = others[0]
            how = _NOTED if one.running else f"or forbid it: mlops-assets reject {one.id} --reason ..."
            raise NotPossible(
                f"{self._spec.name}: a training is wanted already ({one.id}: {one.what.reason}); wait for its end, {how}"
            )
        details = {"trigger": request.trigger, "without": ",".join(request.without)}
        if as_of is not None:
            details["as_of"] = as_of.isoformat()
        if request.window is not None:
            details["window"] = format_duration(timedelta(seconds=request.window.total_seconds()))
        told = {name: text for name, text in details.items() if text}
        return self._decision(self._decide("retrain", reason, told, begins=begins))

    def freeze(self, reason: str) -> None:
        """Nothing is done to the model by itself any more."""
        if self._record.frozen is not None:
            raise NotPossible(f"{self._spec.name} is frozen already: {self._record.frozen}")
        self._tell(Frozen(reason))

    def thaw(self, reason: str) -> None:
        """Automation goes on."""
        if self._record.frozen is None:
            raise NotPossible(f"{self._spec.name} is not frozen: there is nothing to thaw")
        self._tell(Thawed(reason))

    def retire(self, reason: str) -> Changed:
        """Take the model out of service: callers get 410 with the reason; its history stays.

        Raises
        ------
        ChangeRefused, ChangeFailed
            When it has no release, or its workers do not take the plan.
        """
        changed = rollback.retire(self._spec, self._stores, reason=reason, decided_by=self._actor, now=self._clock())
        if self._record.retired is None:
            self._tell(Retired(reason))
        return changed

    def recover(self, reason: str) -> Changed:
        """Let the champion answer again, after a fallback or a retirement. Errors are those of `retire`."""
        changed = rollback.recover(self._spec, self._stores, reason=reason, decided_by=self._actor, now=self._clock())
        Carrier(self._spec, self._stores, NoRuns(), self._clock, self._actor).note_releases()
        return changed

    @property
    def _record(self) -> Record:
        return self._stores.ledger.of(self._spec.name)

    def _decision(self, name: str) -> Decision:
        return next(one for one in self._record.decisions if one.id == name)

    def _require_in_service(self) -> None:
        if self._stores.releases.current(self._spec.name) is None:
            raise NotPossible(f"{self._spec.name} has no release yet: {how_to_begin(self._spec.name)}")
        if self._record.retired is not None:
            raise self._out_of_service()

    def _out_of_service(self) -> NotPossible:
        return NotPossible(
            f"{self._spec.name} is out of service ({self._record.retired}): mlops-assets recover {self._spec.name} --reason ..."
        )

    def _decide(
        self,
        action: Action,
        reason: str,
        details: dict[str, str],
        *,
        incidents: tuple[str, ...] = (),
        begins: bool = False,
        name: str | None = None,
    ) -> str:
        key, name = name and decided_once(name), name or new_id("d")
        _, now = newest_judged(self._spec, self._stores)
        decided = Decided(action, "auto", reason, None, incidents, (), details, policy_of(self._spec))
        facts: list[Fact] = [decided, Started(1)] if begins else [decided]
        at = self._clock()
        self._stores.ledger.record(*(Entry(self._spec.name, name, fact, self._actor, at, now, key) for fact in facts))
        return name

    def _tell(self, fact: Fact) -> None:
        now = newest_judged(self._spec, self._stores)[1]
        self._stores.ledger.record(Entry(self._spec.name, self._spec.name, fact, self._actor, self._clock(), now))


def answer(stores: Stores, decision: str, *, yes: bool, reason: str, actor: str, at: datetime) -> Decision:
    """Allow or forbid what is decided; the decision as it is then.

    An open decision of any kind may be forbidden as long as it has not begun. `decision` may be the beginning of an id.

    Raises
    ------
    NotPossible
        When there is no such decision, or it does not wait for anybody.
    """
    known = [one for model in stores.ledger.models() for one in stores.ledger.of(model).decisions]
    same = [one for one in known if one.id == decision] or [one for one in known if one.id.startswith(decision)]
    if not same:
        raise NotPossible(f"no decision begins with {decision!r}: see `mlops-assets decisions`")
    if len(same) > 1:
        open_first = sorted(same, key=lambda one: (one.is_final, -one.at.timestamp()))
        names = ", ".join(one.id for one in open_first[:_MOST_NAMED])
        raise NotPossible(
            f"{len(same)} decisions begin with {decision!r}, such as {names}: see `mlops-assets decisions`"
        )
    one = same[0]
    may = one.waits_for_approval if yes else (one.waits_for_approval or one.may_start)
    if not may:
        raise NotPossible(f"{one.id} of {one.model} ({one.what.action}) {_state(one)}")
    fact: Approved | Rejected = Approved(reason) if yes else Rejected(reason)
    stores.ledger.record(Entry(one.model, one.id, fact, actor, at, one.now, f"{one.id} answered"))
    return next(known for known in stores.ledger.of(one.model).decisions if known.id == one.id)


def _state(one: Decision) -> str:
    if one.approved_by is not None and not one.is_final:
        return f"was approved by {one.approved_by}: {one.answer}"
    if one.rejected_by is not None:
        return f"was rejected by {one.rejected_by}: {one.answer}"
    if one.running:
        return f"is under way, and can no longer be forbidden: wait for its end, {_NOTED}"
    if one.outcome is not None:
        return f"is over ({one.outcome}): {one.detail}"
    return "waits for nobody's leave" if one.what.asks_for_work else "asks for nothing to be done"


def describe(decision: Decision) -> str:
    """A decision and what became of it, in a line."""
    what = msgspec.structs.asdict(decision.what)["details"]
    how = ", ".join(f"{name} {text}" for name, text in what.items())
    became = decision.outcome or ("under way" if decision.running else "not begun yet")
    return f"{decision.id}: {decision.what.action}{how and f' ({how})'}: {became}{decision.detail and f': {decision.detail}'}"
