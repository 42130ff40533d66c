"""Whether two versions say the same of a row: a quick look for a dashboard. What a difference is worth is not told here."""

from collections.abc import Sequence

from mlops_assets.core.manifest import Manifest

WITHIN = 0.1


def count_agreeing(manifest: Manifest, one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> int:
    """In how many rows the outputs agree: the same class by the manifest's threshold, or values that differ by at most a tenth.

    Parameters
    ----------
    one, other
        Outputs of N rows: probabilities by class, or one value; the tenth is of the larger of two values.
    """
    if manifest.task == "binary":
        threshold = manifest.threshold
        return sum((a[1] >= threshold) == (b[1] >= threshold) for a, b in zip(one, other, strict=True))
    if manifest.task == "multiclass":
        return sum(_best(a) == _best(b) for a, b in zip(one, other, strict=True))
    return sum(abs(a[0] - b[0]) <= WITHIN * max(abs(a[0]), abs(b[0])) for a, b in zip(one, other, strict=True))


def _best(output: Sequence[float]) -> int:
    return max(range(len(output)), key=output.__getitem__)
