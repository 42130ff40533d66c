"""How large a change is, apart from how sure it is: the population stability index without its bias, and what it is called."""

from typing import Literal

import numpy as np

from mlops_assets.core.monitoring.measures import Counts, Floats, Measures

Severity = Literal["none", "info", "notice", "warning", "critical"]

NOTICE, WARNING, CRITICAL = 0.02, 0.1, 0.25


def psi_of(measures: Measures, whole: Counts, counts: Counts) -> Floats:
    """Population stability index of windows against the whole reference, less what chance alone makes of it.

    Σ (q - p) ln(q / p) over the pooled cells, the unseen and the missing (Siddiqi 2006; Jeffreys' divergence), less its
    expectation (K - 1)(1/n + 1/N) for n and N independent rows of one distribution (Yurdakul and Naranjo 2020). Half a row is added
    to each cell that either side has.

    Parameters
    ----------
    whole
        (cells,): the reference's counts of the feature.
    counts
        (W, cells): those of the windows.

    Returns
    -------
    (W,), below zero where less differs than chance lets expect; zero for a window without rows.
    """
    reference, windows = _cells(measures, whole[None, :]), _cells(measures, counts)
    n = np.maximum(windows.sum(axis=1, keepdims=True), 1.0)
    used = (reference > 0) | (windows > 0)
    k = used.sum(axis=1, keepdims=True)
    q = (windows + 0.5 * used) / (n + 0.5 * k)
    p = (reference + 0.5 * used) / (reference.sum() + 0.5 * k)
    terms = np.where(used, (q - p) * np.log(np.where(used, q, 1.0) / np.where(used, p, 1.0)), 0.0)
    bias = (k - 1) * (1 / n + 1 / max(float(reference.sum()), 1.0))
    index: Floats = terms.sum(axis=1) - bias[:, 0]
    return np.where(counts.sum(axis=1) > 0, index, 0.0)


def severity_of(psi: float) -> Severity:
    """The usual words for a population stability index: below .02 info, .1 notice, .25 warning, else critical."""
    if psi < NOTICE:
        return "info"
    if psi < WARNING:
        return "notice"
    return "warning" if psi < CRITICAL else "critical"


def _cells(measures: Measures, counts: Counts) -> Floats:
    extra = counts[:, -1:] if measures.kind == "number" else counts[:, -2:]
    return np.concatenate([measures.grouped(counts), extra.astype(np.float64)], axis=1)
