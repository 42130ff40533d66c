"""The picture of a replay: the loss of each policy over the windows, and when it trained or rolled back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mlops_assets.operations.replay.policy import DECLARED, FOUR_WEEKLY, NEVER, WEEKLY, PolicyResult

# Okabe and Ito's colours, with a line style each, so that none is told by its colour alone
_LINES: dict[str, tuple[str, Any]] = {
    NEVER: ("#868e96", ":"),
    WEEKLY: ("#009e73", "--"),
    FOUR_WEEKLY: ("#56b4e9", "-."),
    DECLARED: ("#3b5bdb", "-"),
}
_EDITED: tuple[str, Any] = ("#d55e00", (0, (3, 1, 1, 1)))
_SMOOTHED_OVER = 7


def replay_figure(results: Sequence[PolicyResult]) -> Figure:
    """Mean loss by window of each policy, smoothed over seven windows, with a mark for each training and each rollback.

    Parameters
    ----------
    results
        Of one model, on the same history.
    """
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    for result in results:
        colour, style = _LINES.get(result.policy, _EDITED)
        times = pd.to_datetime([window.removesuffix("Z") for window in result.windows], format="mixed")
        losses = pd.Series(result.losses, index=times)
        weights = pd.Series(result.rows, index=times, dtype=float)
        smooth = (losses * weights).rolling(_SMOOTHED_OVER, min_periods=1).sum() / weights.rolling(
            _SMOOTHED_OVER, min_periods=1
        ).sum()
        label = f"{result.policy}: {result.mean_loss:.4g}, {result.trainings} trainings"
        axes.plot(smooth.index, smooth, color=colour, linestyle=style, linewidth=1.4, label=label)
        for kind, marker in (("train", "^"), ("roll back", "v")):
            at = [pd.Timestamp(step.now).tz_localize(None) for step in result.steps if step.action.startswith(kind)]
            if at and result.alerts_per_week is not None:
                heights = np.interp([one.value for one in at], [one.value for one in smooth.index], smooth)
                axes.scatter(np.array(at), heights, marker=marker, color=colour, s=46, zorder=3)
    axes.set_ylabel(f"{results[0].metric}, mean over {_SMOOTHED_OVER} windows")
    axes.set_title(f"{results[0].model}: what each policy would have made of this history", loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.text(0.995, 0.02, "▲ training   ▼ rollback", transform=axes.transAxes, ha="right", fontsize=8, color="#495057")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure
