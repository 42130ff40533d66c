"""Flags of a raw row: what was filled, and what is outside of the known domain."""

from typing import Any

import pytest

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
