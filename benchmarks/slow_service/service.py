"""The service as it is, but for scorers that take `BENCH_SCORER_MS` longer, so that one client core can ask for too much.

It is the time of a processor that is spent, not slept: what is scored on the event loop keeps that busy.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.scoring.load import verified_scorer
from mlops_assets.core.scoring.scorer import GoldenRows, Scorer
from mlops_assets.serving import casting
from mlops_assets.serving.service import predictor_service

SECONDS = float(os.environ["BENCH_SCORER_MS"]) / 1e3


class SlowScorer:
    """A scorer that answers later."""

    def __init__(self, scorer: Scorer):
        self._scorer = scorer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scorer, name)

    def score_rows(self, rows: Any) -> Any:
        end = time.perf_counter() + SECONDS
        answer = self._scorer.score_rows(rows)
        while time.perf_counter() < end:
            pass
        return answer

    def score_row(self, row: Any) -> Any:
        return self.score_rows([row])[0].tolist()


def slow(manifest: Manifest, files: Mapping[str, bytes]) -> tuple[Scorer, GoldenRows]:
    """What the service loads, slowed down once it is verified."""
    scorer, golden = verified_scorer(manifest, files)
    return SlowScorer(scorer), golden


casting.verified_scorer = slow  # type: ignore[attr-defined]

predictor = predictor_service(Path(__file__).parent)
