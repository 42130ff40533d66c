"""Models that could not be compiled, answered by scikit-learn: the one module of the serving path that imports it."""

from collections.abc import Sequence
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import is_classifier
from threadpoolctl import threadpool_limits

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.scoring.persist import load_pipeline
from mlops_assets.core.scoring.scorer import ScorerError, Value
from mlops_assets.core.training import predict


class UncompiledError(ScorerError):
    """A pipeline that may not or cannot be loaded."""


class PipelineScorer:
    """A scikit-learn pipeline behind the interface of `core.scoring.scorer.Scorer`.

    Parameters
    ----------
    data
        The bytes of `pipeline.skops`.
    manifest
        Of the same bundle: the order of the features, and the types that may be made beside scikit-learn's own.

    Raises
    ------
    UncompiledError
        When the bytes are damaged, or ask for a type that is not allowed.
    """

    def __init__(self, data: bytes, manifest: Manifest) -> None:
        try:
            self._pipeline = load_pipeline(data, manifest.trusted_types)
        except (ValueError, BadZipFile) as error:
            raise UncompiledError(f"pipeline.skops: {error}") from error
        self.features = tuple(feature.name for feature in manifest.features)
        self._types = {feature.name: feature.type for feature in manifest.features}
        self.outputs = len(self._pipeline.classes_) if is_classifier(self._pipeline) else 1

    def score_rows(self, rows: Sequence[Sequence[Value]]) -> NDArray[np.float64]:
        """Score n rows of raw values in the order of `features`; None where missing. Shape (n, K).

        Raises
        ------
        ScorerError
            For a row that the pipeline refuses.
        """
        try:
            frame = pd.DataFrame([list(row) for row in rows], columns=list(self.features), dtype=object)
            typed = {name: _column(frame[name], self._types[name] == "category") for name in self.features}
            # More threads than one cost more than they bring on a few rows, and disturb the event loop's core.
            with threadpool_limits(limits=1):
                return predict(self._pipeline, pd.DataFrame(typed))
        except (ValueError, TypeError) as error:
            raise ScorerError(f"scikit-learn refuses the row: {error}") from error

    def score_row(self, row: Sequence[Value]) -> list[float]:
        """Score one row; raises as `score_rows`."""
        outputs: list[float] = self.score_rows([row])[0].tolist()
        return outputs

    def warm_up(self) -> None:
        """Let scikit-learn load what it loads on its first answer; a row of missing values may be refused, which is fine."""
        try:
            self.score_rows([[None] * len(self.features)])
        except ScorerError:
            return


def _column(values: pd.Series, category: bool) -> pd.Series:
    return values.where(values.notna(), None) if category else values.astype(np.float64)
