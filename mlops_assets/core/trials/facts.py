"""What the ledger holds of trials, and the state of one that follows.

What is tested and what follows from it is told in `judging.py`; the fold over all facts is that of `core/ledger_fold.py`.
"""

from datetime import datetime
from typing import Literal

import msgspec

from mlops_assets.core.sequential import Look, Verdict
from mlops_assets.core.trials.judging import ENDINGS, Mode, Protocol, Seen, Step


class TrialBegan(msgspec.Struct, frozen=True, tag="trial begun"):
    """A version is tried beside the champion, by a protocol that is fixed from now on. `release` is the plan that began it."""

    release: int
    version: int
    champion: int
    decided_by: str
    protocol: Protocol


class TrialLooked(msgspec.Struct, frozen=True, tag="trial looked"):
    """The evidence of a trial was judged: `core/trials/judging.py` makes `looks`, `step` and `reason` of the rest again."""

    stage: Mode
    share: float
    seen: Seen
    looks: dict[str, Look]
    step: Step
    reason: str


class TrialStepped(msgspec.Struct, frozen=True, tag="trial stepped"):
    """What a look came to is done; or the trial was ended by something else ("superseded"). `release` is the plan that did it."""

    step: Step | Literal["superseded"]
    release: int
    reason: str


class Trial(msgspec.Struct, frozen=True):
    """A trial as its facts tell it.

    Attributes
    ----------
    looks
        How many have been written down; `looked` is the last of them.
    said
        What each test said at the last look of each stage.
    stepped
        The last step that was done, `stepped_at` when by the wall clock and `stepped_now` by the events'.
    """

    id: str
    began: TrialBegan
    at: datetime
    now: datetime | None
    looks: int = 0
    looked: TrialLooked | None = None
    said: dict[str, dict[str, Verdict]] = {}
    stepped: TrialStepped | None = None
    stepped_at: datetime | None = None
    stepped_now: datetime | None = None
    promoted: bool = False
    due: bool = False  # is what the last look came to still to be done?

    @property
    def is_open(self) -> bool:
        return self.stepped is None or self.stepped.step not in ENDINGS

    def after(self, fact: TrialLooked | TrialStepped, at: datetime, now: datetime | None) -> "Trial":
        """The trial with one more fact."""
        replace = msgspec.structs.replace
        if isinstance(fact, TrialLooked):
            said = {name: look.verdict for name, look in fact.looks.items()}
            due = fact.step != "keep looking"
            return replace(self, looks=self.looks + 1, looked=fact, said={**self.said, fact.stage: said}, due=due)
        promoted = self.promoted or fact.step == "promote"
        return replace(self, stepped=fact, stepped_at=at, stepped_now=now, promoted=promoted, due=False)
