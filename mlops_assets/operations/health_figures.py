"""Pictures of a window's health: distributions now against the reference, and losses, missing rates and verdicts over the windows.

Draws what others have decided; how a figure is written out or shown is the business of who asks for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from mlops_assets.core.monitoring.health import DataHealth, ModelHealth, Verdict
from mlops_assets.core.monitoring.profile import MAX_BINS, MAX_CELLS, FeatureBins, WindowProfile
from mlops_assets.core.monitoring.reference import ReferenceProfile

Floats = NDArray[np.float64]

NOW, REFERENCE, ESTIMATE, BAD, FAINT = "#3b5bdb", "#adb5bd", "#e67700", "#e03131", "#868e96"
# Okabe and Ito's colours; each verdict also has a lane of its own, so that none is told by its colour alone.
VERDICTS: dict[Verdict, str] = {
    "insufficient data": "#adb5bd",
    "healthy": "#009e73",
    "degrading": "#e69f00",
    "unhealthy": "#d55e00",
    "failed": "#8c1c13",
}

_SIZE_IN = (5.2, 3.6)
_PANEL_IN = (4.2, 3.0)
_MAX_PANELS, _MAX_LEVELS, _MAX_ROWS = 6, 12, 40
_MAX_TICKS = 5
_MAX_MARKERS = 60  # beyond so many windows, marks on the line hide the line
_NAME_LENGTH = 22
_Z95 = 1.959964
# from see-through to full, so that it reads on dark paper as on white
_HEAT = LinearSegmentedColormap.from_list("missing", [(0.23, 0.36, 0.86, 0.07), (0.23, 0.36, 0.86, 1.0)])


def distribution_figure(reference: ReferenceProfile, window: WindowProfile, features: Sequence[str]) -> Figure:
    """Share of rows per bin in the window against the reference, a panel for each of the first six features.

    Parameters
    ----------
    window
        Counted with the reference's binning.
    features
        Names, the most interesting first; those that the reference does not know are left out.
    """
    bins = {one.name: one for one in reference.binning.features}
    shown = [name for name in dict.fromkeys(features) if name in bins][:_MAX_PANELS]
    if not shown:
        return _empty("Distribution against the reference", "no feature to show")
    columns = min(len(shown), 2)
    rows = math.ceil(len(shown) / columns)
    size = _SIZE_IN if len(shown) == 1 else (_PANEL_IN[0] * columns, _PANEL_IN[1] * rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, name in zip(panels, shown, strict=False):
        cells = reference.binning.slice_of(name)
        was = _shares(reference.whole.counts[cells], reference.whole.rows)
        now = _shares(window.counts[cells], window.rows)
        _strip(axes, _plain(name))
        if bins[name].kind == "number":
            _numbers(axes, bins[name], was, now)
        else:
            _categories(axes, bins[name], was, now)
    for axes in list(panels):
        axes.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    named = [
        f"{label} ({rows:,} rows)" for label, rows in zip(labels, (reference.whole.rows, window.rows), strict=False)
    ]
    figure.legend(handles, named, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def performance_figure(history: Sequence[ModelHealth], floor: float, loss: str | None = None) -> Figure:
    """The loss that decides over the windows, oldest first: realised and estimated with 95 % bands, reference and floor.

    Parameters
    ----------
    floor
        Rise against the expected loss, as a share of it, below which nothing has decayed.
    loss
        Name of the loss; the one that the newest performance report tested if left out.
    """
    name = loss or next((one.performance.loss for one in reversed(history) if one.performance is not None), None)
    title = f"{_plain(name or 'loss')} over the windows"
    points = [_point(one, name) for one in history] if name else []
    if not any(math.isfinite(value) for one in points for value in (one.realised, one.estimate)):
        return _empty(title, "nothing realised or estimated yet")
    figure, axes = _frame(title, "window", f"{_plain(name or 'loss')}, mean over rows")
    at = np.arange(len(points))
    marker = "o" if len(points) <= _MAX_MARKERS else ""
    lines = {column: np.array([getattr(one, column) for one in points]) for column in _Point.__dataclass_fields__}
    _band(axes, at, lines["estimate_low"], lines["estimate_high"], ESTIMATE)
    _line(axes, at, lines["estimate"], "estimated", color=ESTIMATE, linestyle="--", marker=marker and "s", markersize=3)
    _band(axes, at, lines["low"], lines["high"], NOW)
    _line(axes, at, lines["realised"], "realised", color=NOW, marker=marker, markersize=3.5)
    _line(axes, at, lines["reference"], "expected", color=FAINT, linewidth=1)
    _line(axes, at, lines["reference"] * (1 + floor), f"floor, +{floor:.0%}", color=FAINT, linewidth=1, linestyle=":")
    decayed = lines["decayed"].astype(bool)
    if decayed.any():
        axes.plot(
            at[decayed],
            lines["realised"][decayed],
            "X",
            color=BAD,
            markersize=7 if marker else 4,
            label="decayed",
            zorder=5,
        )
    # a window of few rows has a band that would flatten all the others
    seen = np.concatenate([lines[column] for column in ("realised", "estimate", "reference")])
    low, high = np.nanmin(seen), max(np.nanmax(seen), np.nanmax(lines["reference"], initial=-np.inf) * (1 + floor))
    room = 0.3 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)
    _window_ticks(axes, [one.window for one in history])
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    order = sorted(handles, key=lambda label: label not in ("realised", "decayed"))
    figure.legend(
        [handles[label] for label in order], order, loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    return figure


def missing_figure(history: Sequence[DataHealth]) -> Figure:
    """Missing rate of each feature in each window, oldest first, as a heat map; features with the highest rates on top."""
    title = "Missing values over the windows"
    rates = _missing_rates(history)
    if not rates:
        return _empty(title, "no window with enough rows yet")
    names = sorted(rates, key=lambda name: (-np.nanmax(rates[name]), name))
    kept = names[:_MAX_ROWS]
    figure, axes = _frame(title, "window", "")
    top = max(np.nanmax(rates[name]) for name in kept)
    picture = axes.imshow(
        np.array([rates[name] for name in kept]),
        cmap=_HEAT,
        vmin=0,
        vmax=max(top, 0.01),
        aspect="auto",
        interpolation="nearest",
    )
    size = 10 if len(kept) <= 14 else max(4.5, 10 * 14 / len(kept))
    axes.set_yticks(range(len(kept)), [_plain(name) for name in kept], fontsize=size)
    if len(kept) < len(names):
        axes.set_ylabel(f"{len(kept)} of {len(names)} features")
    figure.colorbar(picture, ax=axes, label="missing values, % of rows", format=PercentFormatter(1, symbol=""))
    _window_ticks(axes, [one.window for one in history], _MAX_TICKS - 1)  # beside the colours' bar there is less room
    return figure


def verdict_figure(data: Sequence[DataHealth], model: Sequence[ModelHealth]) -> Figure:
    """The verdict on the data and on the model in each window, oldest first, with a lane for each verdict."""
    title = "Verdicts over the windows"
    begins = {one.window: one.begin for one in data} | {one.window: one.begin for one in model}
    windows = sorted(begins, key=lambda key: begins[key])
    if not windows:
        return _empty(title, "no window has a verdict yet")
    figure = Figure(figsize=_SIZE_IN, layout="constrained")
    both = figure.subplots(2, 1, sharex=True)
    figure.suptitle(title, fontsize=12)
    place = {key: position for position, key in enumerate(windows)}
    lanes = list(VERDICTS)
    for axes, name, history in ((both[0], "data", data), (both[1], "model", model)):
        _strip(axes, "")
        axes.set_ylabel(name)
        axes.set_yticks(range(len(lanes)), lanes, fontsize=8)
        axes.set_ylim(-0.6, len(lanes) - 0.4)
        axes.set_xlim(-0.6, max(len(windows), 7) - 0.4)
        axes.grid(axis="y", color=REFERENCE, linewidth=0.5, alpha=0.5)
        axes.set_axisbelow(True)
        for lane, verdict in enumerate(lanes):
            at = [place[one.window] for one in history if one.verdict == verdict]
            axes.bar(
                at, 0.8, bottom=lane - 0.4, width=1 if len(windows) > _MAX_MARKERS else 0.8, color=VERDICTS[verdict]
            )
    _window_ticks(both[1], windows)
    both[1].set_xlabel("window")
    return figure


@dataclass(frozen=True)
class _Point:
    """The loss of one window as it is drawn; NaN where it is not known."""

    realised: float
    low: float
    high: float
    estimate: float
    estimate_low: float
    estimate_high: float
    reference: float
    decayed: bool


def _point(one: ModelHealth, loss: str) -> _Point:
    report = one.performance
    estimate = one.estimated.get(loss)
    mean, error = (math.nan, math.nan) if estimate is None else (estimate.value, _Z95 * estimate.standard_error)
    realised, low, high = (one.realised.get(loss, math.nan), math.nan, math.nan)
    expected = one.reference.get(loss, math.nan)
    if report is not None and report.loss == loss:
        realised, low, high = report.value, report.low, report.high
        expected = report.expected if math.isfinite(report.expected) else expected
    return _Point(realised, low, high, mean, mean - error, mean + error, expected, one.decayed)


def _numbers(axes: Axes, bins: FeatureBins, was: Floats, now: Floats) -> None:
    """Steps over the bins, which hold about equally many reference rows, with what is outside and what is missing beside them."""
    inner = len(bins.edges) + 1
    space, width = 0.3 + 0.05 * inner, max(1.0, 0.06 * inner)
    side = space + np.array([0, width, width + space, 2 * width + space])
    gap = np.full(1, np.nan)
    before = space + 0.05 * inner  # the first label is longer than its bin
    edges = np.concatenate([[-before - width, -before], np.arange(inner + 1), inner + side])

    def with_gaps(shares: Floats) -> Floats:
        return np.concatenate([shares[:1], gap, shares[1:-2], gap, shares[-2:-1], gap, shares[-1:]])

    axes.stairs(with_gaps(was) * 100, edges, fill=True, color=REFERENCE, label="reference")
    axes.stairs(with_gaps(now) * 100, edges, color=NOW, linewidth=1.6, label="this window")
    ticks = [-before - width / 2, inner + side[:2].mean(), inner + side[2:].mean()]
    uppers = [*bins.edges, bins.high]
    if inner < MAX_BINS:  # a bin for each value, or few bins that are known by their upper end
        at = _thinned(inner, _MAX_TICKS + 1)
        inner_ticks = [position + 0.5 for position in at]
        inner_labels = [f"{uppers[position]:.4g}" for position in at]
    else:
        at = _thinned(inner + 1, _MAX_TICKS)
        inner_ticks = [float(position) for position in at]
        inner_labels = [f"{[bins.low, *uppers][position]:.4g}" for position in at]
    axes.set_xticks([*inner_ticks, *ticks], [*inner_labels, "<", ">", "missing"], fontsize=8)
    axes.set_xlabel("value; < and > are outside the reference's range", fontsize=9)
    axes.set_ylabel("share of rows, %", fontsize=9)
    axes.set_ylim(0, None)


def _categories(axes: Axes, bins: FeatureBins, was: Floats, now: Floats) -> None:
    """A pair of bars for each of the largest levels, and for the rest, unseen and missing values."""
    named = bins.levels[:MAX_CELLS]
    order = np.argsort(-np.maximum(was[: len(named)], now[: len(named)]), kind="stable")[:_MAX_LEVELS]
    rest = np.setdiff1d(np.arange(len(was) - 2), order)
    labels = [_plain(named[place]) for place in order]
    shares = [[was[place], now[place]] for place in order]
    if len(rest):
        labels.append(f"{max(len(bins.levels), len(was) - 2) - len(order)} others")
        shares.append([was[rest].sum(), now[rest].sum()])
    labels += ["unseen", "missing"]
    shares += [[was[-2], now[-2]], [was[-1], now[-1]]]
    at = np.arange(len(labels))
    values = np.array(shares) * 100
    axes.barh(at - 0.2, values[:, 0], height=0.38, color=REFERENCE, label="reference")
    axes.barh(at + 0.2, values[:, 1], height=0.38, color=NOW, label="this window")
    axes.set_yticks(at, labels, fontsize=8 if len(labels) <= 8 else 6.5)
    for label in axes.get_yticklabels()[-2:]:
        label.set_fontstyle("italic")
    axes.invert_yaxis()
    axes.set_xlabel("share of rows, %", fontsize=9)
    axes.set_ylabel("level", fontsize=9)


def _missing_rates(history: Sequence[DataHealth]) -> dict[str, Floats]:
    """Missing rate by feature, shape (windows,) each; NaN in windows without a drift report."""
    rates: dict[str, Floats] = {}
    for position, one in enumerate(history):
        for feature in one.drift.features if one.drift is not None else ():
            rates.setdefault(feature.feature, np.full(len(history), np.nan))[position] = feature.missing_rate
    return {name: values for name, values in rates.items() if np.isfinite(values).any()}


def _shares(counts: NDArray[np.int64], rows: int) -> Floats:
    shares: Floats = counts / rows if rows else np.full(len(counts), np.nan)
    return shares


def _frame(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_IN, layout="constrained")
    axes = figure.subplots()
    _strip(axes, title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _empty(title: str, why: str) -> Figure:
    figure, axes = _frame(title, "", "")
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", color=FAINT, transform=axes.transAxes)
    return figure


def _strip(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def _band(axes: Axes, at: NDArray[np.int64], low: Floats, high: Floats, colour: str) -> None:
    if np.isfinite(low).sum() == 1:  # a band of one window has no width
        axes.vlines(at, low, high, color=colour, alpha=0.5)
    elif np.isfinite(low).any():
        axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)


def _line(axes: Axes, at: NDArray[np.int64], values: Floats, label: str, **style: Any) -> None:
    if not np.isfinite(values).any():
        return
    if len(at) == 1 and not style.get("marker"):
        axes.axhline(values[0], label=label, **style)
    else:
        axes.plot(at, values, label=label, **style)


def _window_ticks(axes: Axes, windows: Sequence[str], most: int = _MAX_TICKS) -> None:
    step = math.ceil(len(windows) / most)
    at = range((len(windows) - 1) % step, len(windows), step)  # evenly, and the newest always
    axes.set_xticks(at, [windows[position] for position in at], fontsize=8)


def _thinned(count: int, most: int) -> list[int]:
    """At most `most` positions out of `count`, spread evenly, first and last included."""
    if count <= most:
        return list(range(count))
    return sorted({round(position * (count - 1) / (most - 1)) for position in range(most)})


def _plain(name: str) -> str:
    """A name as matplotlib shows it letter by letter: without formulas, in one line, and not too long."""
    line = "".join(sign if sign.isprintable() else "·" for sign in name)
    short = line if len(line) <= _NAME_LENGTH else f"{line[: _NAME_LENGTH - 1]}…"
    return short.replace("$", r"\$")
