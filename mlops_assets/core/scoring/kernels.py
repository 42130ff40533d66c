"""From encoded inputs to answers: one compiled kernel and its twin in numpy, over the arrays of a `CompiledScorer`.

No checking here: the scorer has proven on loading that every index is in range and that trees end.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlops_assets.core.scoring.jit import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

# The right child follows the left one. A leaf has `left` 0 and its row of `leaves` in `feature`. `bits` is the row of the
# bitset of a split on categories, -1 for a split on a number (value <= threshold goes left).
NODE = np.dtype([("threshold", "<f8"), ("left", "<i4"), ("feature", "<i4"), ("bits", "<i4"), ("missing_left", "<i4")])
BITSET_CODES = 256

IDENTITY, MEAN, EXP, LOGIT, SOFTMAX = range(5)

_BLOCK_ROWS = 256


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


def score_compiled(numbers: Floats, codes: Ints, arrays: Arrays, rules: Rules, out: Floats) -> int:
    """Score rows with the compiled kernel.

    Parameters
    ----------
    numbers
        Raw numbers, NaN where missing, shape (n, P).
    codes
        Row of each category's table, shape (n, C).
    out
        Answers, shape (n, K), written.

    Returns
    -------
    int
        -1, or the first encoded column with a value that the model refuses.
    """
    return int(_score(numbers, codes, *arrays, *rules, out))


@compiled
def _score(
    numbers: Floats,
    codes: Ints,
    fills: Floats,
    affine: Floats,
    tables: Floats,
    table_starts: NDArray[np.int64],
    table_widths: NDArray[np.int64],
    nodes: NDArray[np.void],
    roots: Ints,
    tree_outputs: Ints,
    leaves: Floats,
    bits: NDArray[np.uint32],
    base: Floats,
    coefficients: Floats,
    link: int,
    scale: float,
    single: bool,
    accepts_missing: bool,
    accepts_infinite: bool,
    out: Floats,
) -> int:
    rows = len(numbers)
    width = len(fills) + table_widths.sum()
    encoded = np.empty((min(rows, _BLOCK_ROWS), width))
    raw = np.empty((min(rows, _BLOCK_ROWS), len(base)))
    for start in range(0, rows, _BLOCK_ROWS):
        block = min(_BLOCK_ROWS, rows - start)
        for row in range(block):
            _encode(
                numbers[start + row],
                codes[start + row],
                fills,
                affine,
                tables,
                table_starts,
                table_widths,
                encoded[row],
            )
            for column in range(width):
                value = encoded[row, column]
                if single:
                    value = np.float64(np.float32(value))
                    encoded[row, column] = value
                if (np.isnan(value) and not accepts_missing) or (np.isinf(value) and not accepts_infinite):
                    return column
            raw[row] = base
        for tree in range(len(roots)):
            output = tree_outputs[tree]
            for row in range(block):
                leaf = _find_leaf(encoded[row], nodes, roots[tree], bits)
                for column in range(leaves.shape[1]):
                    raw[row, output + column] += leaves[leaf, column]
        for row in range(block):
            for output in range(len(coefficients)):
                total = 0.0
                for column in range(width):
                    total += encoded[row, column] * coefficients[output, column]
                raw[row, output] += total
            _answer(raw[row], link, scale, out[start + row])
    return -1


@compiled
def _encode(
    numbers: Floats,
    codes: Ints,
    fills: Floats,
    affine: Floats,
    tables: Floats,
    table_starts: NDArray[np.int64],
    table_widths: NDArray[np.int64],
    encoded: Floats,
) -> None:
    for column in range(len(fills)):
        value = numbers[column]
        if np.isnan(value):
            value = fills[column]
        value = ((value - affine[column, 0]) / affine[column, 1]) * affine[column, 2] + affine[column, 3]
        if value < affine[column, 4]:
            value = affine[column, 4]
        elif value > affine[column, 5]:
            value = affine[column, 5]
        encoded[column] = value
    place = len(fills)
    for category in range(len(table_starts)):
        at = table_starts[category] + codes[category] * table_widths[category]
        for column in range(table_widths[category]):
            encoded[place] = tables[at + column]
            place += 1


@compiled
def _find_leaf(encoded: Floats, nodes: NDArray[np.void], root: int, bits: NDArray[np.uint32]) -> int:
    node = nodes[root]
    while node["left"] != 0:
        value = encoded[node["feature"]]
        if np.isnan(value):
            goes_left = node["missing_left"] != 0
        elif node["bits"] < 0:
            goes_left = value <= node["threshold"]
        elif 0 <= value < BITSET_CODES:
            code = np.int64(value)
            goes_left = (bits[node["bits"], code >> 5] >> np.uint32(code & 31)) & np.uint32(1) != 0
        else:
            goes_left = node["missing_left"] != 0
        node = nodes[node["left"]] if goes_left else nodes[node["left"] + 1]
    return node["feature"]  # type: ignore[no-any-return]


@compiled
def _answer(raw: Floats, link: int, scale: float, out: Floats) -> None:
    if link == LOGIT:
        positive = 1.0 / (1.0 + np.exp(-raw[0] * scale))
        out[0] = 1.0 - positive
        out[1] = positive
    elif link == SOFTMAX:
        largest = raw[0]
        for output in range(1, len(raw)):
            largest = max(largest, raw[output])
        total = 0.0
        for output in range(len(raw)):
            out[output] = np.exp(raw[output] - largest)
            total += out[output]
        for output in range(len(raw)):
            out[output] /= total
    else:
        for output in range(len(raw)):
            if link == EXP:
                out[output] = np.exp(raw[output])
            elif link == MEAN:
                out[output] = raw[output] / scale
            else:
                out[output] = raw[output]


def score_numpy(numbers: Floats, codes: Ints, arrays: Arrays, rules: Rules, out: Floats) -> int:
    """`score_compiled` without numba: all trees of a block of rows are walked at once, level by level."""
    for start in range(0, len(numbers), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        with np.errstate(over="ignore", invalid="ignore"):
            encoded = _encode_numpy(numbers[block], codes[block], arrays)
            if rules.single:
                encoded = encoded.astype(np.float32).astype(np.float64)
            refused = np.zeros(encoded.shape, dtype=np.bool_)
            if not rules.accepts_missing:
                refused |= np.isnan(encoded)
            if not rules.accepts_infinite:
                refused |= np.isinf(encoded)
            if refused.any():
                return int(np.flatnonzero(refused.any(axis=0))[0])
            raw = np.repeat(arrays.base[None, :], len(encoded), axis=0)
            _add_trees_numpy(encoded, arrays, raw)
            if len(arrays.coefficients):
                raw += encoded @ arrays.coefficients.T
            out[block] = _answer_numpy(raw, rules)
    return -1


def _encode_numpy(numbers: Floats, codes: Ints, arrays: Arrays) -> Floats:
    offset, divisor, factor, addend, lower, upper = arrays.affine.T
    filled = np.where(np.isnan(numbers), arrays.fills, numbers)
    parts = [np.clip((filled - offset) / divisor * factor + addend, lower, upper)]
    for category, (start, width) in enumerate(zip(arrays.table_starts, arrays.table_widths, strict=True)):
        parts.append(arrays.tables[start + codes[:, category, None] * width + np.arange(width)])
    return np.concatenate(parts, axis=1)


def _add_trees_numpy(encoded: Floats, arrays: Arrays, raw: Floats) -> None:
    if len(arrays.roots) == 0:
        return
    rows = np.arange(len(encoded))[:, None]
    at = np.repeat(arrays.roots[None, :].astype(np.int64), len(encoded), axis=0)
    nodes = arrays.nodes
    while True:
        left = nodes["left"][at]
        inner = left != 0
        if not inner.any():
            break
        value = encoded[rows, np.where(inner, nodes["feature"][at], 0)]
        goes_left = value <= nodes["threshold"][at]
        missing = np.isnan(value)
        if len(arrays.bits):
            bitset = nodes["bits"][at]
            by_code = bitset >= 0
            known = by_code & (value >= 0) & (value < BITSET_CODES)
            code = np.where(known, value, 0.0).astype(np.int64)
            words = arrays.bits[np.where(by_code, bitset, 0), code >> 5]
            goes_left = np.where(known, (words >> (code & 31).astype(np.uint32)) & 1 != 0, goes_left)
            missing |= by_code & ~known
        if missing.any():
            goes_left = np.where(missing, nodes["missing_left"][at] != 0, goes_left)
        at = np.where(inner, left + ~goes_left, at)
    values = arrays.leaves[arrays.nodes["feature"][at]]
    for output in np.unique(arrays.tree_outputs):
        raw[:, output : output + values.shape[2]] += values[:, arrays.tree_outputs == output].sum(axis=1)


def _answer_numpy(raw: Floats, rules: Rules) -> Floats:
    answer = raw
    if rules.link == LOGIT:
        positive = 1.0 / (1.0 + np.exp(-raw * rules.scale))
        answer = np.concatenate([1.0 - positive, positive], axis=1)
    elif rules.link == SOFTMAX:
        powers = np.exp(raw - raw.max(axis=1, keepdims=True))
        answer = powers / powers.sum(axis=1, keepdims=True)
    elif rules.link == EXP:
        answer = np.exp(raw)
    elif rules.link == MEAN:
        answer = raw / rules.scale
    return answer
