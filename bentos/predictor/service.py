"""The Bento that answers for every released model. What it does is in `mlops_assets/serving`."""

import os
from pathlib import Path

# Before anything that starts threads: one row is scored fastest by one of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

from mlops_assets.serving.service import predictor_service

predictor = predictor_service(Path(__file__).parent)
