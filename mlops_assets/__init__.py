"""Self-healing MLOps for tabular models: Dagster assets, checks and sensors around a BentoML service."""

import os

# OpenMP's threads wait by spinning unless told otherwise before scikit-learn is imported: where the cores are shared, a fit of
# two seconds then takes a minute.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
