"""Which runs of a model exclude each other, however they are started: as a job, or asset by asset in the UI."""

from mlops_assets.core.spec import ModelSpec


def lifecycle_pool(spec: ModelSpec) -> str:
    """The Dagster pool of everything from raw data to the deployed Bento; `dagster.yaml` gives it one place."""
    return f"{spec.name}_lifecycle"
