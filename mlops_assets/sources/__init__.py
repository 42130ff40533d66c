"""Loaders of the shipped models' data: files in, one plain frame out. No Dagster, no stores, no validation."""
