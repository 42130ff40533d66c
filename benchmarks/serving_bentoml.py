"""A scikit-learn pipeline as a BentoML service with nothing set, one of those whom the service is compared with.

The others are in `serving_peers.py`; BentoML wants a module with a service in it.
"""

import os
from typing import Any

import bentoml
import joblib
import pandas as pd

from benchmarks.serving_peers import PIPELINE_VARIABLE


@bentoml.service
class Predictor:
    """Answers with the probability of the second class."""

    def __init__(self) -> None:
        self._pipeline = joblib.load(os.environ[PIPELINE_VARIABLE])

    @bentoml.api
    def predict(self, rows: list[dict[str, Any]]) -> list[float]:
        """One probability a row."""
        found: list[float] = self._pipeline.predict_proba(pd.DataFrame(rows))[:, 1].tolist()
        return found
