"""Pictures can be drawn of what there is: nothing, one window, hundreds of them, and names that nobody would give."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mlops_assets.core.monitoring.health import DataHealth, ModelHealth
from mlops_assets.core.monitoring.profile import WindowProfile, profile_frame
from mlops_assets.core.monitoring.reference import ReferenceProfile
from mlops_assets.operations.health_figures import (
    distribution_figure,
    missing_figure,
    performance_figure,
    verdict_figure,
)
from mlops_assets_tests.operations.health_examples import (
    KINDS,
    health_reference,
    health_rows,
    health_windows,
    model_windows,
    renamed,
)

HOSTILE = ("<script>alert(1)</script>", r"$\frac{1", "a$b$c\n\t\x07", "ü" * 300, "_^{", "")


@pytest.fixture(scope="module")
def reference() -> ReferenceProfile:
    return health_reference()


@pytest.fixture(scope="module")
def seen(reference: ReferenceProfile) -> tuple[list[WindowProfile], list[DataHealth]]:
    return health_windows(reference)


@pytest.fixture(scope="module")
def answers() -> list[ModelHealth]:
    return model_windows(labelled=34)


def png(figure: Figure) -> bytes:
    """Written as the UI shows it, which is when matplotlib lays it out and reads its texts."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80, bbox_inches="tight")
    data = buffer.getvalue()
    assert len(data) < 100_000
    assert min(Image.open(io.BytesIO(data)).size) > 200
    return data


def texts(figure: Figure) -> list[str]:
    labels = [text.get_text() for axes in figure.axes for text in axes.texts]
    ticks = [tick.get_text() for axes in figure.axes for tick in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    named = [text for axes in figure.axes for text in (axes.get_title(), axes.get_xlabel(), axes.get_ylabel())]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [*labels, *ticks, *named, *legends]


def test_distributions_show_at_most_six_features_culprits_first(
    reference: ReferenceProfile, seen: tuple[list[WindowProfile], list[DataHealth]]
):
    profiles, history = seen
    names = [*history[-1].culprits, *KINDS, "unknown"]
    figure = distribution_figure(reference, profiles[-1], names)
    assert [axes.get_title() for axes in figure.axes] == list(dict.fromkeys([*history[-1].culprits, *KINDS]))[:6]
    assert {"reference (12,000 rows)", "this window (300 rows)", "unseen", "missing", "18 others"} <= set(texts(figure))
    png(figure)


def test_the_shares_of_all_cells_are_drawn(reference: ReferenceProfile):
    frame = health_rows(500, 1)
    window = profile_frame(reference.binning, frame)
    (axes,) = distribution_figure(reference, window, ["temp"]).axes
    drawn = [np.nansum(patch.get_data().values) for patch in axes.patches]
    assert drawn == pytest.approx([100, 100])
    (axes,) = distribution_figure(reference, window, ["dest"]).axes
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(200)


def test_a_window_without_rows_is_drawn_beside_its_reference(reference: ReferenceProfile):
    png(distribution_figure(reference, WindowProfile.empty(reference.binning), list(KINDS)))


def test_a_feature_that_was_always_missing_is_drawn():
    frame = health_rows(400, 1).assign(temp=np.nan, dest=None)
    reference = ReferenceProfile.of(frame, KINDS, None, 100)
    png(distribution_figure(reference, profile_frame(reference.binning, health_rows(100, 2)), ["temp", "dest"]))


def test_performance_tells_realised_from_estimated_and_marks_decay(answers: list[ModelHealth]):
    figure = performance_figure(answers, 0.1)
    assert {"realised", "estimated", "expected", "floor, +10%", "decayed", "brier, mean over rows"} <= set(
        texts(figure)
    )
    marks = next(line for line in figure.axes[0].lines if line.get_label() == "decayed")
    assert len(marks.get_xdata()) == sum(one.decayed for one in answers) > 0
    png(figure)


def test_without_labels_the_named_loss_is_estimated():
    answers = model_windows(5, labelled=0)
    assert "nothing realised or estimated yet" in texts(performance_figure(answers, 0.1))
    shown = texts(performance_figure(answers, 0.1, "log_loss"))
    assert "estimated" in shown
    assert "realised" not in shown


def test_missing_rates_put_the_worst_feature_on_top(seen: tuple[list[WindowProfile], list[DataHealth]]):
    figure = missing_figure(seen[1])
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()][:2] == ["pressure", "wind_speed"]
    png(figure)


def test_every_verdict_is_in_its_lane(seen: tuple[list[WindowProfile], list[DataHealth]], answers: list[ModelHealth]):
    figure = verdict_figure(seen[1], answers)
    for axes, history in zip(figure.axes, (seen[1], answers), strict=True):
        lanes = [tick.get_text() for tick in axes.get_yticklabels()]
        drawn = [lanes[round(bar.get_y() + 0.4)] for bar in sorted(axes.patches, key=lambda bar: bar.get_x())]
        assert drawn == [one.verdict for one in history]
    png(figure)


@pytest.mark.parametrize("times", [0, 1, 600])
def test_any_number_of_windows_can_be_drawn(
    seen: tuple[list[WindowProfile], list[DataHealth]], answers: list[ModelHealth], times: int
):
    data, model = (seen[1] * 18)[:times], (answers * 18)[:times]
    figures = [
        performance_figure(model, 0.1),
        missing_figure(data),
        verdict_figure(data, model),
        verdict_figure([], model),
    ]
    for figure in figures:
        png(figure)
        assert all(len(axes.get_xticks()) <= 6 for axes in figure.axes)


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_strange_name_is_shown_letter_by_letter(seen: tuple[list[WindowProfile], list[DataHealth]], name: str):
    """Regression: matplotlib reads what stands between two dollar signs as a formula, and fails on most of them."""
    frame = health_rows(300, 1).rename(columns={"temp": name}).assign(dest=name or "x")
    reference = ReferenceProfile.of(frame, {name: "number", "dest": "category"}, None, 100)
    png(distribution_figure(reference, reference.whole, [name, "dest"]))
    png(missing_figure(renamed(seen[1], "temp", name)))
