"""Which windows to look at next, from what has changed and from how earlier runs ended. Asking for the runs is for `sensors`."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from mlops_assets.core.monitoring.windows import Windows

MOST_WINDOWS = 400  # in one run
MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class PastRun:
    """A finished run over the windows from `first` to `last`. `content` is what it was asked for, empty where started by hand."""

    first: str
    last: str
    content: str
    succeeded: bool


@dataclass(frozen=True)
class Request:
    """One run over the windows from `first` to `last`: the how manieth for this content."""

    first: str
    last: str
    content: str
    attempt: int


@dataclass(frozen=True)
class Plan:
    """Runs to ask for, oldest windows first; and requests that have failed so often that they are not made again."""

    requests: tuple[Request, ...]
    given_up: tuple[Request, ...]

    @property
    def due(self) -> tuple[Request, ...]:
        """Everything that is not as it should be, oldest windows first."""
        return tuple(sorted((*self.requests, *self.given_up), key=lambda one: one.first))


def plan_requests(
    windows: Windows, stale: Mapping[str, str], contents: Mapping[str, str], past: Sequence[PastRun]
) -> Plan:
    """One request for each stretch of windows that are due: those whose content has changed, and those whose last run failed.

    The windows of a failed run stay together and apart from others, so that what failed does not hold up what is new.

    Parameters
    ----------
    stale
        Windows whose table does not have the content that it should, and that content.
    contents
        The content that each window should have, for windows that are not stale.
    past
        Finished runs, newest first.
    """
    known = [run for run in past if _in_calendar(windows, run)]
    failed_in = _failures(windows, known)
    due = {window: stale.get(window) or contents.get(window, "") for window in sorted({*stale, *failed_in})}
    asked = Counter((run.first, run.last, run.content) for run in known)
    requests: list[Request] = []
    given_up: list[Request] = []
    for stretch in _stretches(windows, due, failed_in):
        content = _digest({window: due[window] for window in stretch})
        before = asked[stretch[0], stretch[-1], content]
        request = Request(stretch[0], stretch[-1], content, before + 1)
        (requests if before < MAX_ATTEMPTS else given_up).append(request)
    return Plan(tuple(requests), tuple(given_up))


def _in_calendar(windows: Windows, run: PastRun) -> bool:
    """Runs from before the declared windows changed say nothing about those of now."""
    try:
        windows.bounds(run.first)
        windows.bounds(run.last)
    except ValueError:
        return False
    return True


def _failures(windows: Windows, past: Sequence[PastRun]) -> dict[str, int]:
    """The windows whose newest run failed, with the position of that run."""
    newest: dict[str, int] = {}
    for position, run in enumerate(past):
        for window in windows.between(run.first, run.last):
            newest.setdefault(window, position)
    return {window: position for window, position in newest.items() if not past[position].succeeded}


def _stretches(windows: Windows, due: Mapping[str, str], failed_in: Mapping[str, int]) -> Iterator[list[str]]:
    """Windows that follow one another and belong to the same failed run, or to none; so many at most that a run ends in time."""
    stretch, length = 0, 0
    numbered = []
    for before, window in zip([None, *due], due, strict=False):
        follows = before is not None and windows.shift(before, 1) == window
        begins = not follows or failed_in.get(before or "") != failed_in.get(window) or length == MOST_WINDOWS
        stretch, length = stretch + begins, 1 if begins else length + 1
        numbered.append((stretch, window))
    for _, group in groupby(numbered, key=lambda one: one[0]):
        yield [window for _, window in group]


def _digest(contents: Mapping[str, str]) -> str:
    lines = "\n".join(f"{window} {content}" for window, content in contents.items())
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
