"""Which values of a raw row were filled, and which lie outside of what the model knows: for the reply, the log, the monitors."""

import math
from collections.abc import Callable, Mapping, Sequence
from operator import contains, ge, itemgetter, le
from typing import TYPE_CHECKING, Any

from mlops_assets.core.manifest import FeatureContract, ImputationPlan

if TYPE_CHECKING:  # where single rows are answered there is neither
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

Value = float | int | bool | str | None
Flags = tuple[tuple[str, ...], tuple[str, ...]]

_NOTHING: Flags = ((), ())


def imputed_features(
    contract: tuple[FeatureContract, ...], plan: ImputationPlan, row: Sequence[Value]
) -> tuple[str, ...]:
    """Names of the features of one raw row that are missing and are filled; dropped features never are."""
    return DomainIndex(contract, plan).flags(row)[0]


def out_of_domain(contract: tuple[FeatureContract, ...], row: Sequence[Value]) -> tuple[str, ...]:
    """Names of the features of one raw row with an unknown level, or a number outside of minimum..maximum."""
    return DomainIndex(contract, ImputationPlan(())).flags(row)[1]


class DomainIndex:
    """The look-ups that `flags` needs, made once per model. Immutable, and safe to share between threads."""

    def __init__(self, contract: tuple[FeatureContract, ...], plan: ImputationPlan) -> None:
        kept = set(plan.kept)
        self._features = tuple(
            (feature.name, feature.name in kept, feature.minimum, feature.maximum, _levels(feature))
            for feature in contract
        )
        bounded = [place for place, feature in enumerate(contract) if feature.type != "category"]
        levelled = [place for place, feature in enumerate(contract) if _levels(feature) is not None]
        others = set(range(len(contract))) - {*bounded, *levelled}
        self._bounded, self._levelled = _picker(bounded), _picker(levelled)
        self._others = _picker(sorted(others)) if others else None
        self._minima = tuple(_or(contract[place].minimum, -math.inf) for place in bounded)
        self._maxima = tuple(_or(contract[place].maximum, math.inf) for place in bounded)
        self._levels = tuple(self._features[place][4] or frozenset() for place in levelled)

    def flags(self, row: Sequence[Value]) -> Flags:
        """Names of the imputed features, and of those out of the known domain.

        Parameters
        ----------
        row
            Raw values in the order of the contract; None or NaN where missing. A missing value is never out of the domain.
        """
        if self._is_ordinary(row):
            return _NOTHING
        imputed: list[str] = []
        outside: list[str] = []
        for value, (name, kept, minimum, maximum, levels) in zip(row, self._features, strict=True):
            if _is_missing(value):
                if kept:
                    imputed.append(name)
            elif levels is not None:
                if value not in levels:
                    outside.append(name)
            elif (minimum is not None and value < minimum) or (maximum is not None and value > maximum):  # type: ignore[operator]
                outside.append(name)
        return tuple(imputed), tuple(outside)

    def flags_of_columns(self, columns: "Mapping[str, pd.Series[Any]]") -> tuple[list[str], list[str]]:
        """The same of many rows, a column at a time: of each row the names of either kind, with commas between.

        Parameters
        ----------
        columns
            Raw values of n rows by the names of the contract; numbers and booleans are floats or missing.
        """
        rows = len(next(iter(columns.values())))
        imputed, outside = [""] * rows, [""] * rows
        for name, kept, minimum, maximum, levels in self._features:
            column = columns[name]
            missing = column.isna().to_numpy()
            if kept:
                _name(imputed, missing, name)
            if levels is not None:
                _name(outside, ~missing & ~column.isin(levels).to_numpy(), name)
            elif minimum is not None or maximum is not None:
                numbers = column.to_numpy(dtype=float, na_value=math.nan)
                # NaN is at no side of any bound.
                _name(outside, (numbers < _or(minimum, -math.inf)) | (numbers > _or(maximum, math.inf)), name)
        return imputed, outside

    def _is_ordinary(self, row: Sequence[Value]) -> bool:
        """Whether nothing is missing and all is in the known domain, found in a fraction of the time; False where unsure."""
        numbers: Any = self._bounded(row)
        try:
            # NaN is at no side of any bound.
            return (
                all(map(ge, numbers, self._minima))
                and all(map(le, numbers, self._maxima))
                and all(map(contains, self._levels, self._levelled(row)))
                and (self._others is None or not any(map(_is_missing, self._others(row))))
            )
        except TypeError:  # None has no order
            return False


def _name(texts: list[str], rows: "NDArray[np.bool_]", name: str) -> None:
    for row in rows.nonzero()[0].tolist():
        texts[row] = f"{texts[row]},{name}" if texts[row] else name


def _levels(feature: FeatureContract) -> frozenset[str] | None:
    return frozenset(feature.levels) if feature.type == "category" and feature.levels is not None else None


def _is_missing(value: Value) -> bool:
    return value is None or value != value


def _or(bound: float | None, otherwise: float) -> float:
    return otherwise if bound is None else bound


def _picker(places: Sequence[int]) -> Callable[[Sequence[Value]], tuple[Value, ...]]:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda row: tuple(row[place] for place in places)
