"""Did as many rows come as one would expect of a window at its hour, weekday and season?"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import numpy as np

from mlops_assets.core.monitoring.counting import phase_angles
from mlops_assets.core.monitoring.measures import Floats
from mlops_assets.core.monitoring.profile import WindowProfile
from mlops_assets.core.monitoring.season import Seasons
from mlops_assets.core.monitoring.tails import student_above
from mlops_assets.core.monitoring.windows import WindowSize

_RATIO = 0.6  # the volume must fall to this share, or rise by its inverse, to be worth an alarm
_SCATTER = 0.05  # least standard deviation of log rows: blocks cut to one size say nothing of it
# Distance on the unit circle within which blocks are of the same hour (half the way to the next), or of the same weekday (less
# than that, for days without traffic at night have their middle elsewhere).
_SAME = {"hour": 0.13, "day": 0.3}


class VolumeReport(msgspec.Struct, frozen=True):
    """Rows of the newest window against those expected of it; `ratio` is the one by the other."""

    rows: int
    expected: float
    ratio: float
    alarm: bool
    reason: str


class Volume:
    """The volume of the reference blocks: log rows on the calendar (`Seasons`), with the blocks' own scatter (t test)."""

    def __init__(self, rows: Floats, phase: Floats, alpha: float) -> None:
        used = rows > 0
        self._alpha = alpha
        self._seasons = Seasons.fit(np.log(rows[used])[:, None], rows[used], phase[used]) if used.sum() > 1 else None
        self._usual = float(rows[used].mean()) if used.any() else float("nan")
        if self._seasons is not None:
            left = self._seasons.residuals[:, 0]
            self._freedom = max(float(len(left) - self._seasons.parameters[0]), 1.0)
            # outages of the reference itself must not hide those to come: the scatter is a robust one (Hampel 1974)
            self._scatter = max(float(1.4826 * np.median(np.abs(left - np.median(left)))), _SCATTER)

    def test(self, rows: Floats, phase: Floats) -> tuple[Floats, Floats]:
        """Expected rows and p-values of windows, both (W,); 1 where the volume is between .6 and 1/.6 of that expected."""
        if self._seasons is None:
            return np.full(len(rows), self._usual), np.ones(len(rows))
        mean, factor = self._seasons.expected(phase)
        expected = np.exp(mean[:, 0])
        away = np.log(np.maximum(rows, 0.5)) - mean[:, 0]
        z = np.abs(away) / np.sqrt(self._scatter**2 * factor[:, 0] + 1 / np.maximum(expected, 1.0))
        p = 2 * student_above(z, self._freedom)
        return expected, np.where(np.abs(away) > -np.log(_RATIO), p, 1.0)

    def report(self, rows: Floats, phase: Floats) -> VolumeReport:
        """Judge the last of the windows."""
        expected, p = self.test(rows[-1:], phase[-1:])
        count, usual = int(rows[-1]), float(expected[0])
        ratio = count / usual if usual > 0 else float("nan")
        alarm = bool(p[0] < self._alpha)
        how = "fewer" if ratio < 1 else "more"
        reason = (
            f"{count:,} rows came, far {how} than the {usual:,.0f} that such a window has in the reference"
            if alarm
            else f"{count:,} rows came, about {usual:,.0f} were expected"
        )
        return VolumeReport(count, usual, ratio, alarm, reason)


def usual_rows(blocks: Sequence[WindowProfile], size: WindowSize, begin: datetime) -> float | None:
    """Median rows of the reference's blocks at the same hour of the week, or on the same weekday.

    Parameters
    ----------
    blocks
        The reference's blocks, each of one window; those without rows do not count.
    size
        What the windows are.
    begin
        Begin of the window in question.

    Returns
    -------
    float or None
        0 where fewer than half of the weeks have such a block: it is usually quiet then. None without any block.
    """
    used = [block for block in blocks if block.rows]
    if not used:
        return None
    if size == "week":
        return float(np.median([block.rows for block in used]))
    middle = begin if size == "hour" else begin + timedelta(hours=12)
    # of the day and of the week for an hour, of the week alone for a day
    terms = slice(0, 4) if size == "hour" else slice(2, 4)
    phase = phase_angles(np.array([int(middle.timestamp()) // 3600]))[0]
    away = np.linalg.norm(np.array([block.phase / block.rows for block in used])[:, terms] - phase[terms], axis=1)
    alike = [block.rows for block, distance in zip(used, away, strict=True) if distance < _SAME[size]]
    weeks = len(used) / (7 * 24 if size == "hour" else 7)
    return float(np.median(alike)) if alike and len(alike) >= weeks / 2 else 0.0
