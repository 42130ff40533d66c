"""Dagster sensors: what happens outside, turned into runs and reports by what `core` says."""
