"""The Dagster partitions of a model's windows: the same calendar, the same keys."""

from datetime import timedelta

import dagster as dg

from mlops_assets.core.monitoring.windows import Windows, WindowSize
from mlops_assets.core.spec import ModelSpec

_CRON: dict[WindowSize, str] = {"hour": "0 * * * *", "day": "0 0 * * *", "week": "0 0 * * 1"}


def partitions_of(spec: ModelSpec) -> dg.PartitionsDefinition[str]:
    """One partition per window: from the one in which the model went live to the declared end, else for ever.

    A window that is not over yet is a partition too, so that live traffic can be looked at while it comes. A finished history has
    its windows one by one: of a calendar with an end, Dagster's UI plots the days before today, past that end.
    """
    windows = Windows.of(spec)
    if windows.until is not None:
        last = windows.key(windows.until - timedelta(microseconds=1))
        return dg.StaticPartitionsDefinition(list(windows.between(windows.first, last)))
    return dg.TimeWindowPartitionsDefinition(
        start=windows.first,
        fmt=windows.format,
        cron_schedule=_CRON[windows.size],
        timezone=windows.timezone,
        end_offset=1,
    )
