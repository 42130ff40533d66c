"""The two files of a compiled model: written with the same bytes for the same model, and read without trusting a byte.

`scorer.json` is the layout: names, levels, and the shape of each array. `scorer.npz` holds the arrays, stored and not
deflated, so that nothing can unpack to more than it is, each with just the `.npy` header that its dtype and shape give.
"""

import io
import math
import zipfile
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlops_assets.core.scoring.arrays import BITSET_CODES, NODE, Arrays

FORMAT = 1
LINKS = ("identity", "mean", "exp", "logit", "softmax")
Link = Literal["identity", "mean", "exp", "logit", "softmax"]


class ScorerError(ValueError):
    """A compiled model that cannot be loaded, or input that it cannot answer."""


class CategoryLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One category: row i of its table encodes `levels[i]`, the last row what was never seen.

    `missing` is the row of a missing value. Where `refuse_unseen`, the last row is never used: the encoder raises.
    `width` is the number of columns that the category is encoded to.
    """

    name: str
    levels: tuple[str, ...]
    missing: int
    refuse_unseen: bool
    width: int


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`scorer.json`. `shapes` belong to the arrays in the order of their names; see `arrays` for what they hold.

    `by_neighbours` are the numbers that are filled from donors. `single` tells that the model takes float32, and
    `accepts_*` whether it takes encoded values that are missing or beyond its range.
    """

    features: tuple[str, ...]
    numbers: tuple[str, ...]
    categories: tuple[CategoryLayout, ...]
    outputs: int
    link: Link
    scale: float
    single: bool
    accepts_missing: bool
    accepts_infinite: bool
    neighbours: int
    by_neighbours: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    format: int = FORMAT


@dataclass(frozen=True)
class Parts:
    """A compiled model in memory: all its arrays read-only; donors (m, P) with their scales (P,), (0, P) without KNN."""

    layout: Layout
    arrays: Arrays
    donors: NDArray[np.float64]
    donor_scales: NDArray[np.float64]


_DTYPES: dict[str, tuple[np.dtype[Any], int]] = {
    "fills": (np.dtype("<f8"), 1),
    "affine": (np.dtype("<f8"), 2),
    "tables": (np.dtype("<f8"), 1),
    "table_starts": (np.dtype("<i8"), 1),
    "table_widths": (np.dtype("<i8"), 1),
    "nodes": (NODE, 1),
    "roots": (np.dtype("<i4"), 1),
    "tree_outputs": (np.dtype("<i4"), 1),
    "leaves": (np.dtype("<f8"), 2),
    "bits": (np.dtype("<u4"), 2),
    "base": (np.dtype("<f8"), 1),
    "coefficients": (np.dtype("<f8"), 2),
    "donors": (np.dtype("<f8"), 2),
    "donor_scales": (np.dtype("<f8"), 1),
}


def make_parts(layout: Layout, arrays: dict[str, NDArray[Any]]) -> Parts:
    """Put a model together from arrays of any layout in memory; `shapes` is filled in.

    Raises
    ------
    ScorerError
        When arrays and layout do not fit together.
    """
    canonical = {name: np.ascontiguousarray(arrays[name], dtype=dtype) for name, (dtype, _) in _DTYPES.items()}
    shapes = {name: array.shape for name, array in canonical.items()}
    return _checked(
        msgspec.structs.replace(layout, shapes=shapes), {name: array.copy() for name, array in canonical.items()}
    )


def write_parts(parts: Parts) -> tuple[bytes, bytes]:
    """The bytes of `scorer.npz` and `scorer.json`."""
    named = {**parts.arrays._asdict(), "donors": parts.donors, "donor_scales": parts.donor_scales}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in _DTYPES:
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            archive.writestr(entry, _header(named[name].dtype, named[name].shape) + named[name].tobytes())
    return buffer.getvalue(), msgspec.json.encode(parts.layout)


def read_parts(npz: bytes, layout_json: bytes) -> Parts:
    """Read and prove both files.

    Raises
    ------
    ScorerError
        When they are damaged, when an index points out of its array, when a tree could loop, when a number that must be
        finite is not, or when the format is another one.
    """
    try:
        layout = msgspec.json.decode(layout_json, type=Layout)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ScorerError(f"scorer.json cannot be read: {error}") from error
    _require(layout.format == FORMAT, f"format {layout.format} is not {FORMAT}: take the code that made the model")
    _require(list(layout.shapes) == list(_DTYPES), "scorer.json names other arrays than this code knows")
    try:
        with zipfile.ZipFile(io.BytesIO(npz)) as archive:
            entries = archive.infolist()
            _require(
                [entry.filename for entry in entries] == [f"{name}.npy" for name in _DTYPES],
                "scorer.npz holds other arrays",
            )
            _require(all(entry.compress_type == zipfile.ZIP_STORED for entry in entries), "scorer.npz is deflated")
            members = {name: archive.read(entry) for name, entry in zip(_DTYPES, entries, strict=True)}
    except ScorerError:
        raise
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        OverflowError,
    ) as error:
        raise ScorerError(f"scorer.npz cannot be read: {error}") from error
    return _checked(layout, {name: _read_array(name, layout.shapes[name], member) for name, member in members.items()})


def _read_array(name: str, shape: tuple[int, ...], member: bytes) -> NDArray[Any]:
    dtype, dimensions = _DTYPES[name]
    _require(len(shape) == dimensions and all(0 <= length < 2**31 for length in shape), f"{name}: shape {shape}")
    size = math.prod(shape) * dtype.itemsize
    _require(size <= len(member), f"{name}: {shape} does not fit {len(member)} bytes")
    header = _header(dtype, shape)
    _require(member.startswith(header) and len(member) == len(header) + size, f"{name} is not {dtype} of shape {shape}")
    return np.frombuffer(member, dtype=dtype, offset=len(header)).reshape(shape).copy()


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def _checked(layout: Layout, arrays: dict[str, NDArray[Any]]) -> Parts:
    for array in arrays.values():
        array.setflags(write=False)
    donors, donor_scales = arrays["donors"], arrays["donor_scales"]
    parts = Parts(layout, Arrays(**{name: arrays[name] for name in Arrays._fields}), donors, donor_scales)
    _check_names(layout)
    _check_numbers(parts)
    _check_categories(parts)
    _check_outputs(parts)
    _check_trees(parts)
    return parts


def _check_names(layout: Layout) -> None:
    used = (*layout.numbers, *(category.name for category in layout.categories))
    _require(len(set(layout.features)) == len(layout.features), "a feature is named twice")
    inputs = set(used)
    _require(len(inputs) == len(used) > 0 and inputs <= set(layout.features), "inputs are not among the features")
    _require(set(layout.by_neighbours) <= set(layout.numbers), "by_neighbours are not among the numbers")
    _require(len(set(layout.by_neighbours)) == len(layout.by_neighbours), "by_neighbours are named twice")


def _check_numbers(parts: Parts) -> None:
    numbers, arrays = len(parts.layout.numbers), parts.arrays
    _require(arrays.fills.shape == (numbers,) and not np.isinf(arrays.fills).any(), "fills")
    _require(arrays.affine.shape == (numbers, 6), "affine: shape")
    _require(bool(np.isfinite(arrays.affine[:, :4]).all() and (arrays.affine[:, 1] != 0).all()), "affine: values")
    _require(bool((arrays.affine[:, 4] <= arrays.affine[:, 5]).all()), "affine: clips")
    donors, scales = parts.donors, parts.donor_scales
    _require(donors.shape[1] == numbers and scales.shape == (numbers,) and not np.isinf(donors).any(), "donors")
    _require(bool((np.isfinite(scales) & (scales > 0)).all()), "donor_scales")
    _require(1 <= parts.layout.neighbours <= 1_000_000, "neighbours")
    _require(len(donors) > 0 or not parts.layout.by_neighbours, "there are no donors")


def _check_categories(parts: Parts) -> None:
    start = 0
    categories, arrays = parts.layout.categories, parts.arrays
    _require(arrays.table_starts.shape == arrays.table_widths.shape == (len(categories),), "tables: count")
    for position, category in enumerate(categories):
        where = f"category {category.name!r}"
        _require(len(set(category.levels)) == len(category.levels), f"{where}: a level is named twice")
        _require(0 <= category.missing <= len(category.levels), f"{where}: row of missing values")
        _require(0 <= category.width <= len(arrays.tables), f"{where}: width")
        _require(
            arrays.table_starts[position] == start and arrays.table_widths[position] == category.width,
            f"{where}: table",
        )
        start += (len(category.levels) + 1) * category.width
    _require(len(arrays.tables) == start and not np.isinf(arrays.tables).any(), "tables")


def _check_outputs(parts: Parts) -> None:
    layout, arrays = parts.layout, parts.arrays
    raw = len(arrays.base)
    _require(
        layout.outputs == (2 if layout.link == "logit" else raw) and (raw == 1 or layout.link != "logit"), "outputs"
    )
    _require(raw > 0 and bool(np.isfinite(arrays.base).all()), "base")
    _require(math.isfinite(layout.scale) and layout.scale != 0, "scale")
    width = len(layout.numbers) + sum(category.width for category in layout.categories)
    _require(arrays.coefficients.shape in ((raw, width), (0, width)), "coefficients: shape")
    _require(bool(np.isfinite(arrays.coefficients).all()), "coefficients: values")


def _check_trees(parts: Parts) -> None:
    layout, arrays = parts.layout, parts.arrays
    nodes, roots, count = arrays.nodes, arrays.roots.astype(np.int64), len(arrays.nodes)
    width = len(layout.numbers) + sum(category.width for category in layout.categories)
    _require(len(arrays.tree_outputs) == len(roots), "tree_outputs: count")
    _require((len(roots) == 0) == (count == 0), "nodes without trees, or trees without nodes")
    _require(bool(np.isfinite(arrays.leaves).all()), "leaves: values")
    _require(arrays.bits.shape[1] * 32 == BITSET_CODES, "bits: shape")
    if count == 0:
        return
    ends = np.append(roots[1:], count)
    _require(roots[0] == 0 and bool((ends > roots).all()), "roots")
    outputs = arrays.tree_outputs.astype(np.int64)
    _require(
        bool((outputs >= 0).all() and (outputs + arrays.leaves.shape[1] <= len(arrays.base)).all()), "tree_outputs"
    )
    end = np.repeat(ends, ends - roots)
    left, feature, bits = (nodes[name].astype(np.int64) for name in ("left", "feature", "bits"))
    inner = left != 0
    after = (left > np.arange(count)) & (left + 1 < end)
    _require(bool(after[inner].all()), "nodes: a child does not follow its parent within its tree")
    _require(bool((feature >= 0).all() and (feature[inner] < width).all()), "nodes: feature")
    _require(bool((feature[~inner] < len(arrays.leaves)).all()), "nodes: leaf")
    _require(bool((bits[inner] >= -1).all() and (bits[inner] < len(arrays.bits)).all()), "nodes: bitset")
    _require(not np.isnan(nodes["threshold"]).any(), "nodes: threshold")
    _require(bool(((nodes["missing_left"] == 0) | (nodes["missing_left"] == 1)).all()), "nodes: missing_left")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ScorerError(f"damaged model: {what}")
