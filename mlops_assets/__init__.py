"""Self-healing MLOps for tabular models: Dagster assets, checks and sensors around a BentoML service."""
