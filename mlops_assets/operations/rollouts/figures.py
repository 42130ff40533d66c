"""The picture of a trial: each test's evidence over its samples, with the bounds at which it decides.

Draws what `core/trials/judging.py` has judged; how it is shown is the business of who asks for it.
"""

from collections.abc import Sequence

from matplotlib.figure import Figure

from mlops_assets.core.trials.facts import TrialBegan, TrialLooked

_AGAINST, _IN_FAVOUR, _FAINT = "#d55e00", "#009e73", "#868e96"
_PANEL_IN = (3.6, 2.6)
_COLUMNS = 2


def evidence_figure(began: TrialBegan, looks: Sequence[TrialLooked]) -> Figure:
    """A panel for each test of the stage that the last look was at.

    Parameters
    ----------
    looks
        All that were written down, oldest first, one at least.
    """
    last = looks[-1]
    mine = [one for one in looks if one.stage == last.stage]
    tests = began.protocol.stage(last.stage).tests
    rows = -(-len(tests) // _COLUMNS)
    figure = Figure(figsize=(_PANEL_IN[0] * _COLUMNS, _PANEL_IN[1] * rows), layout="constrained")
    panels = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes, named in zip(panels, tests, strict=False):
        seen = [one.looks[named.name] for one in mine if named.name in one.looks]
        samples, limits = [one.samples for one in seen], named.test.limits
        axes.plot(samples, [one.against for one in seen], color=_AGAINST, marker=".", label="that it is worse")
        axes.axhline(limits.against, color=_AGAINST, linestyle="--", linewidth=1)
        favour = [one.in_favour for one in seen if one.in_favour is not None]
        if favour and named.decides:
            axes.plot(samples, favour, color=_IN_FAVOUR, marker=".", label="that it is no worse")
            axes.axhline(limits.in_favour, color=_IN_FAVOUR, linestyle=":", linewidth=1)
        least = min(-limits.in_favour, *(one.against for one in seen), *favour) if seen else -1.0
        axes.set_ylim(max(least, -2 * limits.against), 1.3 * limits.against)
        axes.set_title(f"{named.name}: {seen[-1].verdict if seen else 'no look yet'}", fontsize=9)
        axes.set_xlabel("samples", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.axhline(0, color=_FAINT, linewidth=0.5)
    for axes in panels[len(tests) :]:
        axes.set_visible(False)
    panels[0].set_ylabel("log evidence", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(
        f"version {began.version} beside version {began.champion}: {last.stage} at {last.share:g}, {last.step}",
        fontsize=10,
    )
    return figure
