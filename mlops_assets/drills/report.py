"""What a drill has shown: one result each, a table for people, and the flat figures of `benchmarks/results/drills.json`."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from rich.table import Table

from mlops_assets.drills.touched import Touched


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
    touched
        What share of the requests felt it, where that is found out.
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
    touched: Touched | None = None

    @classmethod
    def broken_off(cls, name: str, why: str) -> "DrillResult":
        """That of a drill that could not be played to its end."""
        return cls(name, False, why, None, None, None, None, 0, 0, 0, 0, 0, 0, 0, 0.0)

    @property
    def passed(self) -> bool:
        """Healed, nothing lost, no answer wrong, and no more requests touched than may be."""
        return self.healed and not self.lost and not self.wrong and not self.faults

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the share of requests that were touched."""
        return () if self.touched is None else self.touched.faults


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
        if one.touched is not None:
            figures[f"{one.name}_touched_share"] = round(one.touched.share, 4)
            figures[f"{one.name}_touched_of"] = one.touched.requests
            figures[f"{one.name}_touched_at_most"] = _rounded(one.touched.at_most, 4)
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
        "touched",
    )
    table = Table(*columns, "refused", "unanswered", "took s", box=None, pad_edge=False)
    for one in results:
        times = [_seconds(value) for value in (one.detect_s, one.mitigate_s, one.resolve_s)]
        windows = "-" if one.detect_windows is None else str(one.detect_windows)
        counts = [str(count) for count in (one.answered, one.lost, one.wrong, one.harmed)]
        touched = "-" if one.touched is None else f"{100 * one.touched.share:.1f} %"
        trouble = (str(one.refused), str(one.unanswered))
        healed = "[green]yes[/green]" if one.healed else "[red]no[/red]"
        table.add_row(one.name, healed, *times, windows, *counts, touched, *trouble, f"{one.seconds:.0f}")
    return table


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _rounded(value: float | int | bool | None, places: int = 2) -> float | int | bool | None:
    return round(value, places) if isinstance(value, float) else value
