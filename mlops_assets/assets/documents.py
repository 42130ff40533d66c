"""The values other than frames that pass between assets, as Dagster types."""

import dagster as dg

from mlops_assets.core.evaluation import Evaluation
from mlops_assets.operations.train import Candidate

CANDIDATE = dg.PythonObjectDagsterType(
    Candidate, name="Candidate", description="A registered version that waits for its evaluation."
)
EVALUATION = dg.PythonObjectDagsterType(
    Evaluation, name="Evaluation", description="What is known about a candidate, and the verdict."
)
