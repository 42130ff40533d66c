"""Numbers as the UI shows and plots them: verdicts by how bad they are, and no digit that says nothing."""

import math
from collections.abc import Mapping

import dagster as dg

from mlops_assets.core.monitoring.health import Verdict

VERDICT_LEVEL: dict[Verdict, int] = {
    "healthy": 0,
    "insufficient data": 1,
    "degrading": 2,
    "unhealthy": 3,
    "failed": 4,
}
_DIGITS = 4


def plotted(numbers: Mapping[str, float | None]) -> dict[str, dg.MetadataValue]:
    """Metadata that the UI draws over the windows: counts whole, measures to four digits; what is not known is left out."""
    return {
        name: dg.MetadataValue.int(value) if isinstance(value, int) else dg.MetadataValue.float(_rounded(value))
        for name, value in numbers.items()
        if value is not None and math.isfinite(value)
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}") if abs(value) < 10**_DIGITS else float(round(value))
