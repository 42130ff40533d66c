"""Dagster components: YAML in, definitions out."""

from mlops_assets.components.model_lifecycle import ModelLifecycle as ModelLifecycle
