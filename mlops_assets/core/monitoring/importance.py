"""How much a model leans on each feature: what weighs the culprits of a bad window."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from mlops_assets.core.metrics import Floats

ROWS, REPEATS = 2_000, 3


def permutation_importance(
    answer: Callable[[pd.DataFrame], Floats], loss: Callable[[Floats], float], features: pd.DataFrame, seed: int
) -> dict[str, float]:
    """Share of each feature in the loss that shuffling it costs (Breiman 2001), on at most 2,000 rows.

    Parameters
    ----------
    answer
        From a frame like `features` to outputs, shape (n, K) or (n, 1).
    loss
        From outputs to the mean loss on the rows given, in their order.
    features
        Rows the model was not fitted on, raw; take at most 2,000.

    Returns
    -------
    dict of str to float
        One share per column, none below 0, adding up to 1; all equal where shuffling costs nothing.
    """
    random = np.random.default_rng(seed)
    base = loss(answer(features))
    rises = {}
    for name in features.columns:
        shuffled = features.copy()
        losses = []
        for _ in range(REPEATS):
            shuffled[name] = features[name].array.take(random.permutation(len(features)))
            losses.append(loss(answer(shuffled)))
        rises[str(name)] = max(float(np.mean(losses)) - base, 0.0)
    total = sum(rises.values())
    if total <= 0:
        return {name: 1 / len(rises) for name in rises}
    return {name: rise / total for name, rise in rises.items()}
