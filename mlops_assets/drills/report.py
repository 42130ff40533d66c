"""What a drill has shown: one result each, a table for people, and the flat figures of `benchmarks/results/drills.json`."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from rich.table import Table


class Step(msgspec.Struct, frozen=True):
    """One line of what happened, with the seconds since the drill began."""

    at_s: float
    what: str


class DrillResult(msgspec.Struct, frozen=True):
    """How one drill went.

    Attributes
    ----------
    why
        What did not happen, where it has not healed.
    detect_s, mitigate_s, resolve_s
        Wall clock from the injection; None where the drill has no such moment.
    detect_windows
        Windows of event time from the first bad row to detection, where data is the cause; 1 is the window of that row.
    harmed
        Answers of a bad model, or from bad values, before mitigation.
    refused, failed, unanswered
        Requests answered with 503 or 429, with other errors, and not at all.
    """

    name: str
    healed: bool
    why: str
    detect_s: float | None
    mitigate_s: float | None
    resolve_s: float | None
    detect_windows: int | None
    answered: int
    lost: int
    wrong: int
    harmed: int
    refused: int
    failed: int
    unanswered: int
    seconds: float
    examples: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()

    @classmethod
    def broken_off(cls, name: str, why: str) -> "DrillResult":
        """That of a drill that could not be played to its end."""
        return cls(name, False, why, None, None, None, None, 0, 0, 0, 0, 0, 0, 0, 0.0)

    @property
    def passed(self) -> bool:
        """Healed, nothing lost, and no answer wrong."""
        return self.healed and not self.lost and not self.wrong


_FIGURES = (
    "healed",
    "detect_s",
    "mitigate_s",
    "resolve_s",
    "detect_windows",
    "lost",
    "wrong",
    "harmed",
    "refused",
    "failed",
    "unanswered",
    "answered",
    "seconds",
)


def flat(results: Iterable[DrillResult], measured_at: datetime) -> dict[str, float | int | bool | str | None]:
    """The figures under names such as `dead-feed_detect_s`; None where a drill has no such figure."""
    figures: dict[str, float | int | bool | str | None] = {}
    for one in results:
        figures |= {f"{one.name}_{figure}": _rounded(getattr(one, figure)) for figure in _FIGURES}
        figures[f"{one.name}_measured_at"] = measured_at.isoformat(timespec="seconds")
    return figures


def table_of(results: Sequence[DrillResult]) -> Table:
    """One line for each drill."""
    columns = (
        "drill",
        "healed",
        "detect s",
        "mitigate s",
        "resolve s",
        "windows",
        "answers",
        "lost",
        "wrong",
        "harmed",
    )
    table = Table(*columns, "refused", "unanswered", "took s", box=None, pad_edge=False)
    for one in results:
        times = [_seconds(value) for value in (one.detect_s, one.mitigate_s, one.resolve_s)]
        windows = "-" if one.detect_windows is None else str(one.detect_windows)
        counts = [str(count) for count in (one.answered, one.lost, one.wrong, one.harmed, one.refused, one.unanswered)]
        healed = "[green]yes[/green]" if one.healed else "[red]no[/red]"
        table.add_row(one.name, healed, *times, windows, *counts, f"{one.seconds:.0f}")
    return table


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _rounded(value: float | int | bool | None) -> float | int | bool | None:
    return round(value, 2) if isinstance(value, float) else value
