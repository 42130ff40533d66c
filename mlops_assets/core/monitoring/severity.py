"""How large a change is, apart from how sure it is: the population stability index without its bias, and what it is called."""

from typing import Literal

import numpy as np

from mlops_assets.core.monitoring.measures import Counts, Floats, Measures

Severity = Literal["none", "info", "notice", "warning", "critical"]

NOTICE, WARNING, CRITICAL = 0.02, 0.1, 0.25


class Stability:
    """The population stability index of windows against the whole reference, less what chance alone makes of it.

    Σ (q - p) ln(q / p) over the pooled cells, the unseen and the missing (Siddiqi 2006; Jeffreys' divergence), less its
    expectation (K - 1)(1/n + 1/N) for n and N independent rows of one distribution (Yurdakul and Naranjo 2020). Half a row is added
    to each cell that either side has.

    Parameters
    ----------
    whole
        (cells,): the reference's counts of the feature.
    """

    def __init__(self, measures: Measures, whole: Counts) -> None:
        self._measures = measures
        self._reference = self._cells(whole[None, :])
        self._seen = self._reference > 0
        self._rows = float(self._reference.sum())

    def of(self, counts: Counts) -> Floats:
        """The index of windows, counts (W, cells).

        Returns
        -------
        (W,), below zero where less differs than chance lets expect; zero for a window without rows.
        """
        windows = self._cells(counts)
        rows = windows.sum(axis=1, keepdims=True)
        n = np.maximum(rows, 1.0)
        used = self._seen | (windows > 0)
        k = used.sum(axis=1, keepdims=True)
        half = 0.5 * used
        q = (windows + half) / (n + 0.5 * k)
        p = (self._reference + half) / (self._rows + 0.5 * k)
        terms = (q - p) * np.log(np.divide(q, p, out=np.ones_like(q), where=used))
        bias = (k - 1) * (1 / n + 1 / max(self._rows, 1.0))
        return np.where(rows[:, 0] > 0, terms.sum(axis=1) - bias[:, 0], 0.0)

    def _cells(self, counts: Counts) -> Floats:
        extra = counts[:, -1:] if self._measures.kind == "number" else counts[:, -2:]
        return np.concatenate([self._measures.grouped(counts), extra.astype(np.float64)], axis=1)


def severity_of(psi: float) -> Severity:
    """The usual words for a population stability index: below .02 info, .1 notice, .25 warning, else critical."""
    if psi < NOTICE:
        return "info"
    if psi < WARNING:
        return "notice"
    return "warning" if psi < CRITICAL else "critical"
