"""A compiled model as arrays, and how they are read; both engines, `kernels.py` and `kernels_numpy.py`, walk the same ones.

Nothing that takes long to import: who has only to read a model needs no compiler. Numba keeps what it has compiled until
`kernels.py` itself changes: touch it when a value here does.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

# The right child follows the left one. A leaf has `left` 0 and its row of `leaves` in `feature`. `bits` is the row of the
# bitset of a split on categories, -1 for a split on a number (value <= threshold goes left).
NODE = np.dtype([("threshold", "<f8"), ("left", "<i4"), ("feature", "<i4"), ("bits", "<i4"), ("missing_left", "<i4")])
BITSET_CODES = 256

IDENTITY, MEAN, EXP, LOGIT, SOFTMAX = range(5)

BLOCK_ROWS = 256


class Arrays(NamedTuple):
    """A compiled model. P numbers, C categories, W encoded columns (numbers first), R raw outputs, T trees.

    Attributes
    ----------
    fills
        (P,): what replaces a missing number; NaN where nothing does.
    affine
        (P, 6): offset, divisor, factor, addend, lower and upper clip; ((x - offset) / divisor) * factor + addend, clipped.
    tables, table_starts, table_widths
        Encodings of all categories in one flat array; category c's row r is the `table_widths[c]` numbers from
        `table_starts[c] + r * table_widths[c]` on. The last two are (C,).
    nodes, roots, tree_outputs
        Nodes of all trees, index of each root (T,), and the first raw output each tree adds to (T,).
    leaves, bits
        Leaf values (L, w), and bitsets (B, 8) of the category codes that go left.
    base, coefficients
        Raw output before anything is added (R,), and of the linear part (R, W), or (0, W) where there is none.
    """

    fills: Floats
    affine: Floats
    tables: Floats
    table_starts: NDArray[np.int64]
    table_widths: NDArray[np.int64]
    nodes: NDArray[np.void]
    roots: Ints
    tree_outputs: Ints
    leaves: Floats
    bits: NDArray[np.uint32]
    base: Floats
    coefficients: Floats


class Rules(NamedTuple):
    """How the arrays are read. `single` rounds encoded columns to float32; `scale` belongs to the link."""

    link: int
    scale: float
    single: bool
    accepts_missing: bool
    accepts_infinite: bool


def infinite(number: int) -> int:
    """How the kernel says that the raw number in this place is infinite; its own inverse."""
    return -2 - number
