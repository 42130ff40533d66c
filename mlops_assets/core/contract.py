"""The inputs of a fitted model as the service must receive them: the declaration plus what training has seen."""

import pandas as pd

from mlops_assets.core.manifest import FeatureContract
from mlops_assets.core.spec import FeatureSpec, ModelSpec


def make_contract(spec: ModelSpec, training_rows: pd.DataFrame) -> tuple[FeatureContract, ...]:
    """One entry per declared feature, in order; levels are the declared ones, else those seen in training."""
    return tuple(_contract(feature, training_rows[feature.name]) for feature in spec.features)


def _contract(feature: FeatureSpec, values: pd.Series) -> FeatureContract:
    levels = None
    if feature.is_category:
        levels = feature.categories if feature.categories is not None else tuple(sorted(values.dropna().unique()))
    return FeatureContract(
        feature.name,
        feature.type,
        feature.unit,
        feature.description,
        feature.minimum,
        feature.maximum,
        levels,
        feature.nullable,
        feature.domain == "closed",
    )


def raw_rows(contract: tuple[FeatureContract, ...], frame: pd.DataFrame) -> list[tuple[float | bool | str | None, ...]]:
    """Rows of a frame as a client would send them: values in the order of the contract, None where missing.

    What validation holds as the numbers 1 and 0 is true and false again where the contract says so.
    """
    columns = [
        [
            None if missing else bool(value) if one.type == "boolean" else value
            for value, missing in zip(frame[one.name].tolist(), frame[one.name].isna(), strict=True)
        ]
        for one in contract
    ]
    return list(zip(*columns, strict=True))
