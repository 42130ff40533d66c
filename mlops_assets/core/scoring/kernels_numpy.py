"""The kernel of `kernels.py` in numpy: the same answers to 1e-12 where numba is not installed, slower."""

import numpy as np

from mlops_assets.core.scoring.arrays import (
    BITSET_CODES,
    BLOCK_ROWS,
    EXP,
    LOGIT,
    MEAN,
    SOFTMAX,
    Arrays,
    Floats,
    Ints,
    Rules,
    infinite,
)


def score_numpy(numbers: Floats, codes: Ints, arrays: Arrays, rules: Rules, out: Floats) -> int:
    """`Kernel.score`: all trees of a block of rows are walked at once, level by level."""
    if (endless := np.isinf(numbers).any(axis=0)).any():
        return infinite(int(np.flatnonzero(endless)[0]))
    for start in range(0, len(numbers), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
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
    for output in sorted(set(arrays.tree_outputs.tolist())):
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
