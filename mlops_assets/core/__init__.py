"""The domain in plain Python: no Dagster, no BentoML, no MLflow, no input or output."""
