"""Is a candidate worse than the champion? Tests that may be looked at any time, as immutable values that merge counts.

Pure; which rows, who answered them and what is done about a verdict belongs to the rollout.

======================= ============================================= ==============
test                    compares                                      takes
======================= ============================================= ==============
`Sprt`                  errors: discordant pairs, or by share          `Errors`
`OddsAlarm`             the same, for ever, and never promotes         `Errors`
`PairedMeans`           mean losses on the same rows                   `Differences`
`ValueMeans`            mean values on different requests              `Values`
======================= ============================================= ==============

Each has `after(batch)`, `verdict`, `samples` and `look`, and goes through JSON.
"""

from mlops_assets.core.sequential.means import ArmSums, Differences, Interval, PairedMeans, ValueMeans, Values
from mlops_assets.core.sequential.odds import Errors, OddsAlarm, Sprt
from mlops_assets.core.sequential.replay import Batch, Test, advance, replay
from mlops_assets.core.sequential.verdicts import (
    PROMOTES,
    ROLLS_BACK,
    Aim,
    Limits,
    Look,
    Outcome,
    Verdict,
    outcome,
)

__all__ = [
    "PROMOTES",
    "ROLLS_BACK",
    "Aim",
    "ArmSums",
    "Batch",
    "Differences",
    "Errors",
    "Interval",
    "Limits",
    "Look",
    "OddsAlarm",
    "Outcome",
    "PairedMeans",
    "Sprt",
    "Test",
    "ValueMeans",
    "Values",
    "Verdict",
    "advance",
    "outcome",
    "replay",
]
