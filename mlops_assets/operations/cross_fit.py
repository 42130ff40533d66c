"""Answers to rows of the training window by fits that had not seen them, so that a short holdout need not stand for everything."""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from mlops_assets.core.imputation import make_plan
from mlops_assets.core.metrics import Floats
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import TrainingRows, encode_label, fit_pipeline, predict

BLOCKS = 45
FOLDS = 5


@dataclass(frozen=True)
class OutOfSample:
    """Rows in event-time order with their truth, shape (n,), and honest answers, shape (n, K) or (n, 1)."""

    rows: pd.DataFrame
    truth: Floats
    output: Floats


def answer_out_of_sample(
    spec: ModelSpec,
    rows: TrainingRows,
    gated: Pipeline,
    classes: tuple[str | int, ...],
    *,
    block: timedelta = timedelta(days=1),
    blocks: int = BLOCKS,
) -> OutOfSample:
    """The held-out rows answered by the gated fit, and where they are few blocks, earlier ones by fits on what came before.

    Forward chaining: the rows before the holdout are cut into `FOLDS` parts of equal time, each answered by a fit on all
    that precedes it. The first third of the fitted part is only learnt from. Costs at most `FOLDS` fits on a part of the
    rows, none where the holdout has `blocks` blocks of its own.

    Parameters
    ----------
    gated
        The fit on `rows.fit`.
    classes
        Labels in output order; empty for a regression.
    block
        Length of what varies as a whole.
    blocks
        How many of them are wanted, holdout included.
    """
    parts = [(rows.holdout, predict(gated, rows.holdout[list(spec.feature_names)]))]
    first = max(rows.end - blocks * block, rows.start + (rows.split - rows.start) / 3)
    times = rows.fit[spec.event_time]
    step = (rows.split - first) / FOLDS
    for fold in reversed(range(FOLDS if step > timedelta(0) else 0)):
        begin = first + fold * step
        before, part = rows.fit[times < begin], rows.fit[(times >= begin) & (times < begin + step)]
        if part.empty or not _can_fit(spec, before, classes):
            continue
        pipeline = fit_pipeline(spec, before, make_plan(spec, before), classes)
        parts.insert(0, (part, predict(pipeline, part[list(spec.feature_names)])))
    answered = pd.concat([part for part, _ in parts])
    truth = encode_label(spec, answered[spec.label.column], classes)
    return OutOfSample(answered, truth, np.concatenate([output for _, output in parts]))


def _can_fit(spec: ModelSpec, rows: pd.DataFrame, classes: tuple[str | int, ...]) -> bool:
    """Enough rows to be worth a fit, with every class among them."""
    if len(rows) < spec.quality.min_rows // 2 or rows.empty:
        return False
    return len(np.unique(encode_label(spec, rows[spec.label.column], classes))) >= len(classes)
