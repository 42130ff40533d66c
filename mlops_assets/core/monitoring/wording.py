"""The sentences in which a drift report speaks to people."""

import numpy as np

from mlops_assets.core.monitoring.measures import Counts, Measures
from mlops_assets.core.monitoring.profile import FeatureBins
from mlops_assets.core.monitoring.severity import Severity


def confidence(blocks: int, overdispersed: int) -> str:
    """How far alarms of a detector with so many reference blocks can be trusted; the bounds were measured (see the benchmark)."""
    one = "1 reference block" if blocks == 1 else f"{blocks} reference blocks"
    if blocks < 8:
        return f"{one}: how much windows differ by nature is not known, so that only large changes alarm"
    if not overdispersed:
        return f"{one}, which differ by chance alone: false alarms in about .1 % of windows"
    if blocks < 24:
        return (
            f"{one}: weak; only changes far beyond what these windows differ by alarm, and a few percent may be false"
        )
    if blocks < 130:
        return f"{one}: fair; false alarms in up to a few percent of windows"
    return f"{one}: good; false alarms in about 1 % of windows, where holidays or outages are near in 2 %"


def reason(
    bins: FeatureBins, measures: Measures, whole: Counts, merged: Counts, test: str, scale: int, severity: Severity
) -> str:
    """One sentence: what the feature does now, what it did in the reference, and how grave that is.

    Parameters
    ----------
    whole, merged
        (cells,): counts of the reference, and of the last `scale` windows together.
    """
    when = "" if scale == 1 else f" over the last {scale} windows"
    return f"{bins.name} {_what(bins, measures, whole, merged, test)}{when} ({severity})"


def _what(bins: FeatureBins, measures: Measures, whole: Counts, merged: Counts, test: str) -> str:
    rows = max(int(merged.sum()), 1)
    if test == "missing":
        return f"is missing in {percent(merged[-1] / rows)} of the rows instead of {percent(whole[-1] / max(int(whole.sum()), 1))}"
    if test == "unseen":
        return f"has levels that the reference never had in {percent(merged[-2] / rows)} of the rows"
    if test == "out of range":
        outside = (merged[0] + merged[-2]) / rows
        return (
            f"lies outside of {bins.low:g} to {bins.high:g}, the reference's range, in {percent(outside)} of the rows"
        )
    if test == "stuck":
        return f"had one single value in all of {rows:,} rows, where it used to vary"
    if test in ("location", "spread"):
        return _rank(measures, merged, test)
    return _largest_change(bins, whole, merged)


def _rank(measures: Measures, merged: Counts, test: str) -> str:
    measured = measures.of(merged[None, :]).values[0]
    if test == "location":
        word = "higher" if measured[0] > measures.expected[0] else "lower"
        return (
            f"is {word} than in the reference: mean rank {_rate(measured[0])} instead of {_rate(measures.expected[0])}"
        )
    word = "more" if measured[1] > measures.expected[1] else "less"
    return (
        f"is spread {word} widely than in the reference: mean distance from the middle rank {_rate(measured[1])} "
        f"instead of {_rate(measures.expected[1])}"
    )


def _largest_change(bins: FeatureBins, whole: Counts, merged: Counts) -> str:
    now = merged[:-1] / max(int(merged[:-1].sum()), 1)
    then = whole[:-1] / max(int(whole[:-1].sum()), 1)
    cell = int(np.argmax(np.abs(now - then)))
    how = f"{percent(now[cell])} of the values instead of {percent(then[cell])}"
    if bins.kind == "number":
        return f"is distributed otherwise than in the reference: {_interval(bins, cell)} lie {how}"
    level = (
        repr(bins.levels[cell])
        if cell < min(len(bins.levels), len(whole) - 2) and not _others(bins, whole, cell)
        else "rarer levels"
    )
    return f"has another mix of levels than the reference: {level} in {how}"


def _others(bins: FeatureBins, whole: Counts, cell: int) -> bool:
    return len(bins.levels) > len(whole) - 2 and cell == len(whole) - 3


def _interval(bins: FeatureBins, cell: int) -> str:
    ends = [bins.low, *bins.edges, bins.high]
    if cell == 0:
        return f"below {bins.low:g}"
    if cell > len(bins.edges) + 1:
        return f"above {bins.high:g}"
    return f"between {ends[cell - 1]:g} and {ends[cell]:g}"


def percent(share: float) -> str:
    """A share as people write it, with more digits where it is small."""
    points = 100 * float(share)
    return (
        f"{points:.0f} %" if points >= 10 or points == 0 else f"{points:.1f} %" if points >= 0.1 else f"{points:.2g} %"
    )


def _rate(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")
