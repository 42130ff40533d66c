"""Dagster: one file per asset, in the order data flows, each with its own checks beside it."""
