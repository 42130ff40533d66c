"""When a health asset is overdue: a monitor that stops is an alarm of its own."""

from datetime import timedelta

import dagster as dg

from mlops_assets.core.spec import ModelSpec

_WINDOW = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}


def freshness_of(spec: ModelSpec) -> dg.FreshnessPolicy:
    """A warning when no window has been looked at for the length of two of them, a failure after three, by the wall clock."""
    window = _WINDOW[spec.monitoring.window]
    return dg.FreshnessPolicy.time_window(fail_window=3 * window, warn_window=2 * window)
