"""Self-healing MLOps for tabular models: Dagster assets, checks and sensors around a BentoML service."""

import os

# OpenMP's threads wait by spinning unless told otherwise before scikit-learn is imported: where the cores are shared, a fit of
# two seconds then takes a minute.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# MLflow's bars of progress, a line for each step where output is no terminal, hide what is told beside them.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
