"""Answers that have been given to the same row by the same model; off unless asked for. They are logged like any other."""

from collections import OrderedDict
from weakref import WeakKeyDictionary

from mlops_assets.serving.contract import RawRow
from mlops_assets.serving.metrics import CacheMetrics
from mlops_assets.serving.state import LiveModel


class AnswerCache:
    """Keeps the outputs of the rows that were asked for last, by model. On the event loop alone.

    What a model has answered is forgotten with it: every release loads its models anew, and takes nothing over.

    Parameters
    ----------
    rows
        To keep for each model.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._kept: WeakKeyDictionary[LiveModel, tuple[OrderedDict[RawRow, list[float]], CacheMetrics]] = (
            WeakKeyDictionary()
        )

    def find(self, live: LiveModel, row: RawRow) -> list[float] | None:
        """The outputs for this row, or None."""
        kept = self._kept.get(live)
        if kept is None:
            kept = self._kept[live] = (OrderedDict(), CacheMetrics(live.manifest.model))
        answers, metrics = kept
        found = answers.get(row)
        if found is None:
            metrics.missed.inc()
            return None
        metrics.found.inc()
        answers.move_to_end(row)
        return found

    def keep(self, live: LiveModel, row: RawRow, output: list[float]) -> None:
        """Keep what `live` has answered, in the place of what nobody has asked for longest."""
        kept = self._kept.get(live)
        if kept is None:
            return
        answers = kept[0]
        answers[row] = output
        if len(answers) > self._rows:
            answers.popitem(last=False)
