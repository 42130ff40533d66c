from pathlib import Path

import pytest

from mlops_assets.stores.prediction_log import PredictionLog


@pytest.fixture
def log(tmp_path: Path) -> PredictionLog:
    (tmp_path / "log").mkdir()
    return PredictionLog(tmp_path / "log")
