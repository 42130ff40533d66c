"""What the ledger holds: facts about incidents, decisions and releases, each written once, and the state that follows from them.

Values only; how the state follows is told in `ledger_fold.py`, keeping facts is the business of `stores/ledger.py`, and what to do
next that of `core/response`.
"""

from datetime import datetime
from typing import Literal

import msgspec

from mlops_assets.core.trials.facts import Trial, TrialBegan, TrialLooked, TrialStepped

Severity = Literal["info", "warning", "critical"]
Action = Literal["none", "observe", "alert", "impute", "retrain", "roll back", "fall back", "freeze", "escalate"]
Mode = Literal["auto", "approve", "off"]
Outcome = Literal["done", "on trial", "unchanged", "refused", "failed", "abandoned"]

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
_AUTOMATIC = ("sensor:", "schedule:")


class Opened(msgspec.Struct, frozen=True, tag="incident opened"):
    """A cause of trouble was found for the first time.

    `cause` names it among those of the model ("feed:pressure", "performance", "service", ...): what comes again joins it.
    `began` is the event time of the first bad row, `first_bad_at` the moment by the wall clock; None where that is not known.
    `level` is the loss that was to be expected before a model's answers got worse: what it must come back to.
    """

    cause: str
    title: str
    severity: Severity
    window: str | None = None
    began: datetime | None = None
    first_bad_at: datetime | None = None
    evidence: tuple[str, ...] = ()
    level: float | None = None


class Joined(msgspec.Struct, frozen=True, tag="incident joined"):
    """The same cause was found again."""

    severity: Severity
    window: str | None = None
    evidence: tuple[str, ...] = ()


class Acknowledged(msgspec.Struct, frozen=True, tag="incident acknowledged"):
    """A person has seen it."""

    reason: str = ""


class Mitigated(msgspec.Struct, frozen=True, tag="incident mitigated"):
    """It harms no longer, though its cause may still be there."""

    how: str
    decision: str | None = None


class Resolved(msgspec.Struct, frozen=True, tag="incident resolved"):
    """Its cause is gone."""

    reason: str
    window: str | None = None


class Decided(msgspec.Struct, frozen=True, tag="decided"):
    """What is to be done, and why.

    `inputs` is the digest of all that was looked at, `policy` that of the declared rules. `details` say how: `as_of`, `version`,
    `without` (features), `window` (of training), `gates` and the like, as text.
    """

    action: Action
    mode: Mode
    reason: str
    window: str | None = None
    incidents: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    details: dict[str, str] = {}
    policy: str = ""
    inputs: str = ""

    @property
    def asks_for_work(self) -> bool:
        """Is there anything to be carried out? What the service does by itself, such as filling gaps, needs nobody."""
        return self.action in ("retrain", "roll back", "fall back", "freeze") or (
            self.action == "impute" and "masked" in self.details
        )


class Approved(msgspec.Struct, frozen=True, tag="approved"):
    """A person allows a decision to be carried out."""

    reason: str


class Rejected(msgspec.Struct, frozen=True, tag="rejected"):
    """A person forbids it."""

    reason: str


class Started(msgspec.Struct, frozen=True, tag="started"):
    """A decision is being carried out, for the `attempt`-th time; `run` is the Dagster run, empty where it needs none."""

    attempt: int
    run: str = ""


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """An attempt is over. After "failed" another may follow; all other outcomes are final."""

    outcome: Outcome
    attempt: int
    run: str = ""
    detail: str = ""


class Released(msgspec.Struct, frozen=True, tag="released"):
    """Another version answers. `automated` tells whether no person was needed, `strategy` how it reached the traffic."""

    release: int
    version: int
    former: int | None
    strategy: str
    automated: bool
    reason: str


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The gates held a candidate back."""

    version: int | None
    reason: str


class Frozen(msgspec.Struct, frozen=True, tag="frozen"):
    """Nothing is done to the model by itself any more."""

    reason: str


class Thawed(msgspec.Struct, frozen=True, tag="thawed"):
    """Automation goes on."""

    reason: str


class Retired(msgspec.Struct, frozen=True, tag="retired"):
    """The model is out of service; its history stays."""

    reason: str


Fact = (
    Opened
    | Joined
    | Acknowledged
    | Mitigated
    | Resolved
    | Decided
    | Approved
    | Rejected
    | Started
    | Ended
    | Released
    | TrialBegan
    | TrialLooked
    | TrialStepped
    | Refused
    | Frozen
    | Thawed
    | Retired
)


class Entry(msgspec.Struct, frozen=True):
    """One line of the ledger, before it has a place in it.

    Attributes
    ----------
    subject
        Id of the incident, the decision or the trial that the fact is about; the model's name for facts about the model itself.
    actor
        Who says so, such as "sensor:flight_delay_response", "user:ann" or "run:<id>".
    at
        By the wall clock.
    now
        By the events' clock: end of the newest window that was looked at; None where no window was.
    key
        What must happen only once: a second entry with the same key is not taken.
    """

    model: str
    subject: str
    fact: Fact
    actor: str
    at: datetime
    now: datetime | None = None
    key: str | None = None


class Incident(msgspec.Struct, frozen=True):
    """An incident as its facts tell it; `windows` are those that it was found in. Times ending in `_at` are by the wall clock."""

    id: str
    model: str
    cause: str
    title: str
    severity: Severity
    detected_at: datetime
    detected: datetime | None
    began: datetime | None = None
    first_bad_at: datetime | None = None
    windows: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    times_found: int = 1
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    mitigated_at: datetime | None = None
    mitigated_by: str | None = None
    resolved_at: datetime | None = None
    resolved: datetime | None = None
    resolution: str = ""
    level: float | None = None

    @property
    def is_open(self) -> bool:
        return self.resolved_at is None


class Decision(msgspec.Struct, frozen=True):
    """A decision with what has become of it."""

    id: str
    model: str
    what: Decided
    at: datetime
    now: datetime | None
    actor: str
    approved_by: str | None = None
    rejected_by: str | None = None
    answer: str = ""
    attempts: int = 0
    runs: tuple[str, ...] = ()
    outcome: Outcome | None = None
    running: bool = False
    ended_at: datetime | None = None
    detail: str = ""

    @property
    def is_by_automation(self) -> bool:
        """Has no person asked for it? Leave may have been given, or be needed."""
        return self.actor.startswith(_AUTOMATIC)

    @property
    def is_final(self) -> bool:
        """Is nothing left to be done about it?"""
        over = self.outcome is not None and self.outcome != "failed"
        return over or self.rejected_by is not None or self.what.mode == "off" or not self.what.asks_for_work

    @property
    def waits_for_approval(self) -> bool:
        return self.what.mode == "approve" and self.approved_by is None and not self.is_final

    @property
    def may_start(self) -> bool:
        return not self.is_final and not self.waits_for_approval and not self.running


class Change(msgspec.Struct, frozen=True):
    """One change of the version that answers, by the wall clock and by the events'."""

    released: Released
    at: datetime
    now: datetime | None


class Record(msgspec.Struct, frozen=True):
    """All that the ledger knows of one model, oldest first. `frozen` and `retired` hold the reason, None where it is not so."""

    model: str
    incidents: tuple[Incident, ...] = ()
    decisions: tuple[Decision, ...] = ()
    releases: tuple[Change, ...] = ()
    refusals: tuple[tuple[datetime | None, Refused], ...] = ()
    frozen: str | None = None
    retired: str | None = None
    frozen_at: datetime | None = None
    thawed: datetime | None = None  # by the events' clock where it is known
    trials: tuple[Trial, ...] = ()

    @property
    def open_trial(self) -> Trial | None:
        return next((one for one in reversed(self.trials) if one.is_open), None)

    @property
    def open_incidents(self) -> tuple[Incident, ...]:
        return tuple(one for one in self.incidents if one.is_open)

    @property
    def open_decisions(self) -> tuple[Decision, ...]:
        return tuple(one for one in self.decisions if not one.is_final)

    def incident_of(self, cause: str) -> Incident | None:
        """The open incident with this cause."""
        return next((one for one in self.open_incidents if one.cause == cause), None)
