"""Which values of a raw row were filled, and which lie outside of what the model knows: for the reply, the log, the monitors."""

from collections.abc import Sequence

from mlops_assets.core.manifest import FeatureContract, ImputationPlan

Value = float | int | bool | str | None


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

    def flags(self, row: Sequence[Value]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the imputed features, and of those out of the known domain.

        Parameters
        ----------
        row
            Raw values in the order of the contract; None or NaN where missing. A missing value is never out of the domain.
        """
        imputed: list[str] = []
        outside: list[str] = []
        for value, (name, kept, minimum, maximum, levels) in zip(row, self._features, strict=True):
            if value is None or value != value:
                if kept:
                    imputed.append(name)
            elif levels is not None:
                if value not in levels:
                    outside.append(name)
            elif (minimum is not None and value < minimum) or (maximum is not None and value > maximum):  # type: ignore[operator]
                outside.append(name)
        return tuple(imputed), tuple(outside)


def _levels(feature: FeatureContract) -> frozenset[str] | None:
    return frozenset(feature.levels) if feature.type == "category" and feature.levels is not None else None
