"""Numbers for the UI: counts whole, measures short, nothing where nothing is known."""

import math

import pytest

from mlops_assets.assets.numbers import plotted


def test_counts_stay_whole_and_measures_are_short() -> None:
    shown = plotted({"rows": 123_456, "share": 0.123456, "none": 0, "many": 123_456.7, "small": -0.000012345})
    values = {name: entry.value for name, entry in shown.items()}
    assert values == {"rows": 123_456, "share": 0.1235, "none": 0, "many": 123_457.0, "small": -0.00001234}
    assert isinstance(values["rows"], int)


@pytest.mark.parametrize("unknown", [None, math.nan, math.inf])
def test_what_is_not_known_is_left_out(unknown: float | None) -> None:
    assert plotted({"auc": unknown}) == {}
