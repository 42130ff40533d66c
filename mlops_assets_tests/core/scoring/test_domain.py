"""Flags of a raw row: what was filled, and what is outside of the known domain."""

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.manifest import FeatureContract, ImputationPlan, ImputedFeature
from mlops_assets.core.scoring.domain import DomainIndex, imputed_features, out_of_domain

CONTRACT = (
    FeatureContract("carrier", "category", levels=("AA", "UA")),
    FeatureContract("distance", "number", minimum=0.0, maximum=100.0),
    FeatureContract("free", "number"),
    FeatureContract("empty", "number", minimum=0.0),
)
PLAN = ImputationPlan(
    (
        ImputedFeature("carrier", "missing_category", 0.1, False, "missing"),
        ImputedFeature("distance", "median", 0.1, False, 5.0),
        ImputedFeature("free", "knn", 0.4, True),
        ImputedFeature("empty", "dropped", 0.99, True),
    )
)


@pytest.mark.parametrize(
    ("row", "imputed", "outside"),
    [
        (("AA", 5, 1e300, 1), (), ()),
        ((None, None, float("nan"), None), ("carrier", "distance", "free"), ()),
        (("ZZ", -0.1, 0, -1), (), ("carrier", "distance", "empty")),
        (("", 100.0, True, None), (), ("carrier",)),
        (("UA", 100.1, None, None), ("free",), ("distance",)),
    ],
)
def test_flags(row: tuple[Any, ...], imputed: tuple[str, ...], outside: tuple[str, ...]) -> None:
    assert DomainIndex(CONTRACT, PLAN).flags(row) == (imputed, outside)
    assert imputed_features(CONTRACT, PLAN, row) == imputed
    assert out_of_domain(CONTRACT, row) == outside


ALL_KINDS = (
    *CONTRACT,
    FeatureContract("holiday", "boolean"),
    FeatureContract("tail", "category"),
    FeatureContract("origin", "category", levels=("EWR", "JFK")),
)
NUMBER = st.none() | st.floats(-10, 110) | st.sampled_from([0.0, 100.0, float("nan"), True, 7])
TEXT = st.none() | st.sampled_from(["AA", "UA", "JFK", "EWR", "", "ZZ"])


@given(st.tuples(TEXT, NUMBER, NUMBER, NUMBER, st.none() | st.booleans(), TEXT, TEXT))
def test_flags_are_those_of_each_value_alone(row: tuple[Any, ...]) -> None:
    """Whether or not a row is known at a glance to be ordinary."""
    index = DomainIndex(ALL_KINDS, PLAN)
    kept = set(PLAN.kept)
    imputed, outside = [], []
    for value, feature in zip(row, ALL_KINDS, strict=True):
        if value is None or value != value:
            imputed += [feature.name] if feature.name in kept else []
        elif feature.levels is not None:
            outside += [] if value in feature.levels else [feature.name]
        elif any(bound is not None and sign * value < sign * bound for bound, sign in _bounds(feature)):
            outside.append(feature.name)
    assert index.flags(row) == (tuple(imputed), tuple(outside))


def _bounds(feature: FeatureContract) -> list[tuple[float | None, int]]:
    return [(feature.minimum, 1), (feature.maximum, -1)]


ROWS = st.lists(st.tuples(TEXT, NUMBER, NUMBER, NUMBER, st.none() | st.booleans(), TEXT, TEXT), max_size=20)


@given(ROWS)
def test_flags_of_columns_are_those_of_each_row(rows: list[tuple[Any, ...]]) -> None:
    columns = {
        feature.name: pd.Series([row[place] for row in rows], dtype=object if feature.type == "category" else float)
        for place, feature in enumerate(ALL_KINDS)
    }
    columns["free"] = columns["free"].astype(object)  # as a feature is whose values are not trusted
    index = DomainIndex(ALL_KINDS, PLAN)
    imputed, outside = index.flags_of_columns(columns)
    expected = [index.flags(row) for row in rows]
    assert imputed == [",".join(one) for one, _ in expected]
    assert outside == [",".join(one) for _, one in expected]
