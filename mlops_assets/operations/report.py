"""One page about one window: the verdicts on its data and its model, why, and pictures of both. A single HTML file.

It shows what the monitors have written down; nothing is tested or judged here.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from mlops_assets.core.metrics import METRICS
from mlops_assets.core.monitoring.health import DataHealth, ModelHealth
from mlops_assets.core.monitoring.profile import WindowProfile, profile_frame
from mlops_assets.core.monitoring.reference import ReferenceProfile
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.health_figures import (
    distribution_figure,
    missing_figure,
    performance_figure,
    verdict_figure,
)
from mlops_assets.operations.live_traffic import live_windows
from mlops_assets.operations.monitor import Monitor
from mlops_assets.operations.readings import DATA_HEALTH, MODEL_HEALTH
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.files import make_folder, write_whole
from mlops_assets.stores.home import Home

SHOWN_WINDOWS = 60
SHOWN_FEATURES = 6
SHOWN_IF_NONE = 2  # features of a window without culprits: a drawing takes a tenth of a second
SYMBOLS = {"healthy": "✓", "degrading": "▲", "unhealthy": "✕", "failed": "■", "insufficient data": "?"}

# The colours of the pictures, and what the page calls them: it has others for them on dark paper.
_COLOURS = {"#000000": "currentColor", "#3b5bdb": "var(--now)", "#adb5bd": "var(--was)", "#868e96": "var(--faint)"}
_NEIGHBOUR_HIDDEN = ' hidden data-until-written=""'


@dataclass(frozen=True)
class Counted:
    """A window's profile and the reference that its bins come from."""

    reference: ReferenceProfile
    window: WindowProfile


@dataclass(frozen=True)
class Picture:
    """A drawing as inline SVG, labelled for those who do not see it, and in `words` what there is to see."""

    svg: Markup
    words: str


@dataclass(frozen=True)
class MetricRow:
    """One metric of the task beside its estimate and its value on held-out rows; NaN where it is not known."""

    name: str
    realised: float
    estimated: float
    standard_error: float
    reference: float
    better: str


@dataclass(frozen=True)
class Neighbours:
    """Links to the pages of the windows before and after, and whether these pages exist."""

    earlier: str
    later: str
    has_earlier: bool
    has_later: bool


def report_path(home: Home, model: str, window: str) -> Path:
    """Where the page of a window lies, or would."""
    return home.reports / model / f"{window}.html"


def judged_windows(spec: ModelSpec, stores: Stores) -> list[str]:
    """The windows that have a verdict on their data or on the model, oldest first."""
    kinds = (DATA_HEALTH, MODEL_HEALTH)
    return [
        key for key in live_windows(spec, stores) if any(stores.lake.has(spec.name, f"{kind}/{key}") for kind in kinds)
    ]


def verdicts_of(spec: ModelSpec, stores: Stores, window: str) -> tuple[str, str]:
    """The verdicts on a window's data and on the model; "not judged" where there is none."""
    monitor = Monitor(spec, stores)
    histories = (monitor.data_history(window, 1), monitor.model_history(window, 1))
    data, model = (history[-1].verdict if history else "not judged" for history in histories)
    return data, model


def write_report(
    spec: ModelSpec, stores: Stores, window: str, *, monitor: Monitor | None = None, pictures: bool = True
) -> Path:
    """Write the page of a window, and let the pages of its neighbours lead to it. Returns its path.

    Parameters
    ----------
    monitor
        One that has read the window already, so that nothing is read twice.
    pictures
        Without them a page is written in milliseconds, which counts when hundreds of windows are looked at in one go.

    Raises
    ------
    ValueError
        For what is no window of the model's calendar.
    FileNotFoundError
        When the window has no verdict yet; tells what to materialise.
    """
    watching = monitor or Monitor(spec, stores)
    watching.windows.bounds(window)
    data_history = watching.data_history(window, SHOWN_WINDOWS)
    model_history = watching.model_history(window, SHOWN_WINDOWS)
    data = next((one for one in data_history if one.window == window), None)
    model = next((one for one in model_history if one.window == window), None)
    if data is None and model is None:
        raise FileNotFoundError(
            f"{spec.name}: there is no verdict on window {window}: materialise partition {window} of {spec.name}/{DATA_HEALTH} and "
            f"{spec.name}/{MODEL_HEALTH} first"
        )
    path = report_path(stores.home, spec.name, window)
    drawn: list[Picture] = []
    if pictures:
        drawn = draw_pictures(spec, data_history, model_history, _counted(watching, data))
    links = _neighbours(watching.windows, path, window)
    page = render(spec, data, model, drawn, links, datetime.now(UTC))
    make_folder(path.parent)
    write_whole(path, page.encode(), durable=False)
    _show_link(path.with_name(f"{watching.windows.shift(window, -1)}.html"), "next")
    _show_link(path.with_name(f"{watching.windows.shift(window, 1)}.html"), "prev")
    return path


def render(
    spec: ModelSpec,
    data: DataHealth | None,
    model: ModelHealth | None,
    pictures: Sequence[Picture],
    neighbours: Neighbours,
    made_at: datetime,
) -> str:
    """The page as HTML. One of `data` and `model` must be given."""
    either = data or model
    if either is None:
        raise ValueError(f"{spec.name}: a page needs a verdict on the data or on the model of its window")
    return _TEMPLATES.get_template("health.html.j2").render(
        spec=spec,
        window=either,
        data=data,
        model=model,
        by_name={} if data is None or data.drift is None else {one.feature: one for one in data.drift.features},
        metrics=() if model is None else metric_rows(model),
        pictures=pictures,
        neighbours=neighbours,
        hidden=Markup(_NEIGHBOUR_HIDDEN),
        made_at=made_at,
        symbols=SYMBOLS,
    )


def draw_pictures(
    spec: ModelSpec, data: Sequence[DataHealth], model: Sequence[ModelHealth], counted: Counted | None
) -> list[Picture]:
    """Verdicts, loss and missing rates over the windows, oldest first, and the newest window's culprits beside the reference."""
    drawn = [_picture(verdict_figure(data, model), "Verdicts over the windows", _verdicts_in_words(data, model))]
    if model:
        figure = performance_figure(model, spec.monitoring.floor, spec.headline_loss)
        drawn.append(_picture(figure, f"{spec.headline_loss} over the windows", _loss_in_words(spec, model[-1])))
    if not data:
        return drawn
    drawn.append(_picture(missing_figure(data), "Missing values over the windows", _missing_in_words(data[-1])))
    if counted is None:
        return drawn
    features = data[-1].drift.features if data[-1].drift is not None else ()
    reasons = {one.feature: one.reason for one in features}
    culprits = [name for name in data[-1].culprits if name in reasons]
    for name in culprits[:SHOWN_FEATURES] or list(reasons)[:SHOWN_IF_NONE]:
        figure = distribution_figure(counted.reference, counted.window, [name])
        drawn.append(_picture(figure, f"Distribution of {name} in this window and in the reference", reasons[name]))
    return drawn


def metric_rows(model: ModelHealth) -> list[MetricRow]:
    """Every metric that is realised, estimated or known from the held-out rows."""
    names = dict.fromkeys([*model.reference, *model.realised, *model.estimated])
    rows = []
    for name in names:
        estimate = model.estimated.get(name)
        rows.append(
            MetricRow(
                name,
                model.realised.get(name, math.nan),
                math.nan if estimate is None else estimate.value,
                math.nan if estimate is None else estimate.standard_error,
                model.reference.get(name, math.nan),
                ("higher" if METRICS[name].higher_is_better else "lower") if name in METRICS else "",
            )
        )
    return rows


def _counted(monitor: Monitor, data: DataHealth | None) -> Counted | None:
    """None where nothing was tested, or the bundle that it was tested with has been removed since."""
    if data is None or data.drift is None or data.bundle is None or data.bundle not in monitor.stores.bundles:
        return None
    reference = monitor.reference(data.bundle)
    if reference is None:
        return None
    binning, answers = reference.profile.binning, monitor.answers(data.window)
    features = answers.features.reindex(columns=list(binning.names))
    return Counted(reference.profile, profile_frame(binning, features))


def _neighbours(windows: Windows, path: Path, window: str) -> Neighbours:
    before, after = (f"{windows.shift(window, step)}.html" for step in (-1, 1))
    return Neighbours(
        # "./", for what stands before a colon would be read as a protocol
        f"./{quote(before)}",
        f"./{quote(after)}",
        path.with_name(before).exists(),
        path.with_name(after).exists(),
    )


def _show_link(path: Path, which: str) -> None:
    """Let a page that was written before its neighbour lead to it."""
    try:
        page = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    shown = page.replace(f'rel="{which}"{_NEIGHBOUR_HIDDEN}', f'rel="{which}"')
    if shown != page:
        write_whole(path, shown.encode(), durable=False)


def _picture(figure: Figure, label: str, words: str) -> Picture:
    """Texts stay texts, which can be read aloud and searched for, and colours follow the page's."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "health"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", drawn, count=2, flags=re.DOTALL)
    drawn = re.sub(r' id="[\w.]+_\d+"', "", drawn)  # they would be there once in every picture
    drawn = re.sub(r"font-family:[^;\"]*;?", "", drawn)
    for colour, name in _COLOURS.items():
        drawn = drawn.replace(f": {colour}", f": {name}")
    begin = Markup('<svg role="img" aria-label="{}"').format(label)
    drawn = re.sub(
        r'<svg\b| (width|height)="[\d.]+pt"', lambda found: begin if found[0] == "<svg" else "", drawn, count=3
    )
    return Picture(Markup(drawn), words)  # safe: matplotlib escapes the texts it was given


def _verdicts_in_words(data: Sequence[DataHealth], model: Sequence[ModelHealth]) -> str:
    def counted(history: Sequence[DataHealth | ModelHealth]) -> str:
        verdicts = [one.verdict for one in history]
        return ", ".join(f"{verdicts.count(one)} {one}" for one in SYMBOLS if one in verdicts) or "none"

    return f"On the data: {counted(data)}; on the model: {counted(model)}"


def _loss_in_words(spec: ModelSpec, newest: ModelHealth) -> str:
    report, bands = newest.performance, "bands hold 95 %"
    if report is None:
        return f"The newest window has no {spec.headline_loss} that labels would tell; {bands}"
    return f"{report.value:.4g} in the newest window, where {report.expected:.4g} was to be expected; {bands}"


def _missing_in_words(newest: DataHealth) -> str:
    if newest.drift is None or not newest.drift.features:
        return "The newest window was not tested"
    most = max(newest.drift.features, key=lambda one: one.missing_rate)
    return f"Most in the newest window: {most.feature}, {_percent(most.missing_rate)}"


def _number(value: float) -> str:
    """Four digits; a dash where nothing is known."""
    return (
        f"{value:,.4g}"
        if math.isfinite(value) and abs(value) < 1e4
        else f"{value:,.0f}"
        if math.isfinite(value)
        else "–"
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if math.isfinite(value) else "–"


def _p_value(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def _moment(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("mlops_assets"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(number=_number, percent=_percent, p_value=_p_value, moment=_moment)
