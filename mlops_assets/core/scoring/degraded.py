"""Answers under a plan that trusts less than everything: values taken for missing, and a constant in place of the model.

Which features or whether, is the plan's to say (`core/rollout`).
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.scoring.scorer import Scorer, ScorerError, Value

Row = tuple[Value, ...]
Mask = Callable[[Sequence[Value]], Row]


class CannotDegrade(ValueError):
    """A model cannot do without these values, or has no constant to answer with."""


def mask_of(manifest: Manifest, masked: Collection[str]) -> Mask:
    """What takes a raw row, in the order of the contract, to the same row without the values of these features.

    Raises
    ------
    CannotDegrade
        For a feature that the model does not know.
    """
    places = {feature.name: position for position, feature in enumerate(manifest.features)}
    if unknown := sorted(set(masked) - places.keys()):
        raise CannotDegrade(
            f"model {manifest.model!r} version {manifest.version} knows no {', '.join(unknown)} that could be taken for missing: "
            f"choose from {', '.join(places)}"
        )
    positions = sorted(places[name] for name in masked)

    def without(row: Sequence[Value]) -> Row:
        values = list(row)
        for position in positions:
            values[position] = None
        return tuple(values)

    return without


def require_maskable(
    manifest: Manifest, scorer: Scorer, masked: Collection[str], rows: Sequence[Sequence[Value]]
) -> Mask:
    """The mask, proven: each of these rows is answered without the masked values.

    Raises
    ------
    CannotDegrade
        When a feature is unknown, nothing fills it, or an answer is refused or no finite number.
    """
    mask = mask_of(manifest, masked)
    for name in sorted(masked):
        filled = manifest.imputation[name]
        if filled.strategy not in ("dropped", "knn") and filled.value is None:
            raise CannotDegrade(
                f"model {manifest.model!r} version {manifest.version} has nothing to fill a missing {name} with"
            )
    try:
        answers = scorer.score_rows([mask(row) for row in rows])
    except ScorerError as error:
        raise CannotDegrade(
            f"model {manifest.model!r} version {manifest.version} does not answer without {', '.join(sorted(masked))}: {error}"
        ) from error
    if not np.isfinite(answers).all():
        raise CannotDegrade(
            f"model {manifest.model!r} version {manifest.version} gives no finite number without {', '.join(sorted(masked))}"
        )
    return mask


def constant_output(manifest: Manifest, value: float | str | int | None) -> tuple[float, ...]:
    """The outputs that a fallback value stands for: base rate, most frequent class with certainty, or the number itself.

    Raises
    ------
    CannotDegrade
        When there is no value, or it is none of the model's classes or no probability.
    """
    what = f"model {manifest.model!r} version {manifest.version}: the fallback value {value!r} is"
    if manifest.task == "multiclass":
        if value not in manifest.classes:
            raise CannotDegrade(f"{what} none of the classes {', '.join(map(str, manifest.classes))}")
        return tuple(float(one == value) for one in manifest.classes)
    if isinstance(value, str) or value is None:
        raise CannotDegrade(f"{what} no number to answer with")
    if manifest.task == "regression":
        return (float(value),)
    if not 0.0 <= value <= 1.0:
        raise CannotDegrade(f"{what} no probability")
    return (1.0 - value, float(value))
