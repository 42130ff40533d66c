"""From encoded inputs to answers: one compiled kernel over the arrays of a `CompiledScorer`. Its twin is in `kernels_numpy.py`.

No checking here: the scorer has proven on loading that every index is in range and that trees end.
"""

import ctypes
from array import array
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_assets.core.scoring.arrays import (
    BITSET_CODES,
    BLOCK_ROWS,
    EXP,
    LOGIT,
    MEAN,
    NODE,
    SOFTMAX,
    Arrays,
    Floats,
    Ints,
    Rules,
)
from mlops_assets.core.scoring.jit import c_function, carray, compiled, pointer_at


class Kernel:
    """The kernel bound to one model. Immutable, and safe to share between threads.

    Numba takes longer to look at a dozen arrays than to walk the trees for one row. What C would call takes none of that: the
    addresses of the arrays are written down once, and a call hands over four numbers.
    """

    def __init__(self, arrays: Arrays, rules: Rules, outputs: int) -> None:
        scale = np.array([rules.scale])
        # Kept, because nothing else holds what the addresses point to.
        self._kept = {name: np.ascontiguousarray(one) for name, one in (arrays._asdict() | {"scale": scale}).items()}
        model = np.zeros(1, dtype=_MODEL)
        for name, one in self._kept.items():
            model[name] = one.ctypes.data
        sizes = (
            ("numbers", len(arrays.fills)),
            ("categories", len(arrays.table_starts)),
            ("width", len(arrays.fills) + arrays.table_widths.sum()),
            ("outputs", outputs),
            ("cells", len(arrays.tables)),
            ("node_count", len(arrays.nodes)),
            ("trees", len(arrays.roots)),
            ("leaf_count", len(arrays.leaves)),
            ("leaf_width", arrays.leaves.shape[1]),
            ("bitsets", len(arrays.bits)),
            ("raw", len(arrays.base)),
            ("linear", len(arrays.coefficients)),
        )
        for name, value in (*sizes, *rules._asdict().items()):
            if name != "scale":
                model[name] = value
        self._model, self._address = model, model.ctypes.data
        self._row, self._rows = _functions()

    def score(self, numbers: Floats, codes: Ints, out: Floats) -> int:
        """Score rows, without the GIL.

        Parameters
        ----------
        numbers
            Raw numbers, NaN where missing, shape (n, P).
        codes
            Row of each category's table, int32, shape (n, C).
        out
            Answers, shape (n, K), written.

        Returns
        -------
        int
            -1; the first encoded column with a value that the model refuses; or `infinite` of a number that is.
        """
        numbers, codes = np.ascontiguousarray(numbers), np.ascontiguousarray(codes)
        return self._rows(numbers.ctypes.data, codes.ctypes.data, out.ctypes.data, len(out), self._address)

    def score_one(self, numbers: "array[float]", codes: "array[int]", out: "array[float]") -> int:
        """`score` for one row in arrays of 'd', 'i' and 'd'. It keeps the GIL, for which it would wait longer than it takes."""
        return self._row(numbers.buffer_info()[0], codes.buffer_info()[0], out.buffer_info()[0], 1, self._address)


# One bound model: addresses of the arrays, how many there are of what, and how they are read.
_ADDRESSES = (*Arrays._fields, "scale")
_SIZES = (
    "numbers", "categories", "width", "outputs", "cells", "node_count", "trees", "leaf_count", "leaf_width", "bitsets", "raw",
    "linear",
)  # fmt: skip
_FLAGS = ("link", "single", "accepts_missing", "accepts_infinite")
_MODEL = np.dtype([(name, "<i8") for name in (*_ADDRESSES, *_SIZES, *_FLAGS)])

Call = Callable[[int, int, int, int, int], int]


@cache
def _functions() -> tuple[Call, Call]:
    """The kernel as C would call it: with the GIL, and without."""
    address = c_function("int64(int64, int64, int64, int64, int64)", _score_at)
    types = (ctypes.c_int64,) * 6
    return ctypes.PYFUNCTYPE(*types)(address), ctypes.CFUNCTYPE(*types)(address)


def _score_at(numbers: int, codes: int, out: int, rows: int, model: int) -> Any:
    """What `Kernel` writes down, read again."""
    m = carray(pointer_at(model), (1,), _MODEL)[0]
    return _score(
        carray(pointer_at(numbers), (rows, m["numbers"]), np.float64),
        carray(pointer_at(codes), (rows, m["categories"]), np.int32),
        carray(pointer_at(m["fills"]), (m["numbers"],), np.float64),
        carray(pointer_at(m["affine"]), (m["numbers"], 6), np.float64),
        carray(pointer_at(m["tables"]), (m["cells"],), np.float64),
        carray(pointer_at(m["table_starts"]), (m["categories"],), np.int64),
        carray(pointer_at(m["table_widths"]), (m["categories"],), np.int64),
        carray(pointer_at(m["nodes"]), (m["node_count"],), NODE),
        carray(pointer_at(m["roots"]), (m["trees"],), np.int32),
        carray(pointer_at(m["tree_outputs"]), (m["trees"],), np.int32),
        carray(pointer_at(m["leaves"]), (m["leaf_count"], m["leaf_width"]), np.float64),
        carray(pointer_at(m["bits"]), (m["bitsets"], 8), np.uint32),
        carray(pointer_at(m["base"]), (m["raw"],), np.float64),
        carray(pointer_at(m["coefficients"]), (m["linear"], m["width"]), np.float64),
        m["link"],
        carray(pointer_at(m["scale"]), (1,), np.float64)[0],
        m["single"] != 0,
        m["accepts_missing"] != 0,
        m["accepts_infinite"] != 0,
        carray(pointer_at(out), (rows, m["outputs"]), np.float64),
    )


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
    for row in range(rows):
        for column in range(len(fills)):
            if np.isinf(numbers[row, column]):
                return -2 - column  # `infinite`
    encoded = np.empty((min(rows, BLOCK_ROWS), width))
    raw = np.empty((min(rows, BLOCK_ROWS), len(base)))
    for start in range(0, rows, BLOCK_ROWS):
        block = min(BLOCK_ROWS, rows - start)
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
