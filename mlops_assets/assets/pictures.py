"""Pictures for the UI: matplotlib figures as small PNGs inside Markdown metadata."""

import base64
import io

import dagster as dg
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from mlops_assets.core.evaluation import Evaluation, Judged, calibration_curve
from mlops_assets.core.metrics import decide
from mlops_assets.core.spec import ModelSpec

SMALL_RUN = 7
_SIZE_IN = (5.2, 3.6)
_COLOUR = "#3b5bdb"


def evaluation_figures(
    spec: ModelSpec, judged: Judged, evaluation: Evaluation, classes: tuple[str | int, ...]
) -> dict[str, Figure]:
    """The figures that suit the task, by name."""
    if spec.task == "regression":
        return {"residuals": _residuals(judged), "predicted_and_actual": _predicted_and_actual(judged)}
    figures = {"confusion_matrix": _confusion_matrix(judged, classes, spec.evaluation.decision_threshold)}
    if spec.task == "binary":
        figures["calibration"] = _calibration(judged)
    return figures


def png(figure: Figure) -> bytes:
    """A figure as PNG, small enough for the event log."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)  # laid out by its own layout: a tight box would draw everything twice
    return buffer.getvalue()


def is_worth_pictures(windows: int, is_newest: bool, verdict: str, before: str | None) -> bool:
    """Are pictures of a window worth the second they take, in a run over so many windows?

    All windows of a small run; of a large one the newest, and those in which something broke. Others are drawn on request by
    `mlops-assets report`.
    """
    return windows <= SMALL_RUN or is_newest or (verdict != before and verdict in ("unhealthy", "failed"))


def as_markdown(name: str, picture: bytes) -> dg.MarkdownMetadataValue:
    """A PNG that the UI shows in place."""
    return dg.MetadataValue.md(f"![{name}](data:image/png;base64,{base64.b64encode(picture).decode()})")


def _frame(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_IN, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _calibration(judged: Judged) -> Figure:
    stated, realised, _ = calibration_curve(judged)
    figure, axes = _frame("Calibration on the held-out rows", "stated probability", "realised share")
    top = max(stated.max(), realised.max()) * 1.05
    axes.plot([0, top], [0, top], color="#adb5bd", linestyle="--", linewidth=1)
    axes.plot(stated, realised, marker="o", color=_COLOUR)
    return figure


def _confusion_matrix(judged: Judged, classes: tuple[str | int, ...], threshold: float) -> Figure:
    counts = confusion_matrix(judged.truth, decide(judged.output, threshold), labels=range(len(classes)))
    figure, axes = _frame("Confusion matrix on the held-out rows", "answered", "true")
    axes.imshow(counts, cmap="Blues")
    axes.set_xticks(range(len(classes)), [str(name) for name in classes])
    axes.set_yticks(range(len(classes)), [str(name) for name in classes])
    for row in range(len(classes)):
        for column in range(len(classes)):
            dark = counts[row, column] > counts.max() / 2
            axes.text(
                column, row, f"{counts[row, column]:,}", ha="center", va="center", color="white" if dark else "black"
            )
    return figure


def _residuals(judged: Judged) -> Figure:
    residuals = judged.output[:, 0] - judged.truth
    figure, axes = _frame("Residuals on the held-out rows", "predicted - actual", "rows")
    low, high = np.quantile(residuals, [0.005, 0.995])
    axes.hist(np.clip(residuals, low, high), bins=60, color=_COLOUR)
    axes.axvline(residuals.mean(), color="#e03131", linewidth=1, label=f"mean {residuals.mean():.2f}")
    axes.legend(frameon=False)
    return figure


def _predicted_and_actual(judged: Judged) -> Figure:
    figure, axes = _frame("Predicted and actual on the held-out rows", "predicted", "actual")
    axes.hexbin(judged.output[:, 0], judged.truth, gridsize=50, cmap="Blues", mincnt=1, bins="log")
    low, high = judged.truth.min(), judged.truth.max()
    axes.plot([low, high], [low, high], color="#adb5bd", linestyle="--", linewidth=1)
    return figure
