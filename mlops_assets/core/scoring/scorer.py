"""Answers from a compiled model: numbers and JSON in, probabilities or values out. This is what the service runs.

Nothing of pandas, scikit-learn or pydantic may be imported here; how a pipeline becomes a scorer is told in `compile.py`,
how the arrays are walked in `kernels.py`, how they are written to bytes in `scorer_files.py`.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlops_assets.core.neighbours import Donors, fill_from_donors
from mlops_assets.core.scoring.arrays import Rules, infinite
from mlops_assets.core.scoring.kernels_numpy import score_numpy
from mlops_assets.core.scoring.scorer_files import LINKS, CategoryLayout, Parts, read_parts, write_parts
from mlops_assets.core.scoring.scorer_files import ScorerError as ScorerError

if TYPE_CHECKING:
    from mlops_assets.core.scoring.kernels import Kernel

Floats = NDArray[np.float64]
Value = float | int | bool | str | None
Engine = Literal["numba", "numpy"]

TOLERANCE = 1e-12

_NAN = float("nan")


class Scorer(Protocol):
    """Whatever answers raw rows: a compiled model, or the scikit-learn pipeline itself."""

    @property
    def features(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> int: ...

    def score_rows(self, rows: Sequence[Sequence[Value]]) -> Floats: ...

    def score_row(self, row: Sequence[Value]) -> list[float]: ...

    def warm_up(self) -> None: ...


class CompiledScorer:
    """A fitted pipeline as data, from raw features to answers. Immutable, and safe to share between threads.

    Parameters
    ----------
    parts
        Layout and arrays, already proven consistent (`scorer_files.read_parts`).
    engine
        `numba`, or `numpy` which answers the same to 1e-12, slower, and is there at once. The former where installed when None.

    Attributes
    ----------
    features
        Raw inputs in contract order; dropped ones included, and ignored.
    outputs
        K: classes, or 1 for a regression.

    Raises
    ------
    ScorerError
        When the numba engine is asked for and numba is not installed.
    """

    def __init__(self, parts: Parts, engine: Engine | None = None) -> None:
        layout = parts.layout
        self.features = layout.features
        self.outputs = layout.outputs
        self._parts = parts
        place = {name: position for position, name in enumerate(layout.features)}
        self._numbers = tuple(place[name] for name in layout.numbers)
        self._pick_numbers = _picker(self._numbers)
        self._categories = tuple((place[category.name], _Codes(category)) for category in layout.categories)
        self._rules = Rules(
            LINKS.index(layout.link), layout.scale, layout.single, layout.accepts_missing, layout.accepts_infinite
        )
        self._kernel = None if engine == "numpy" else _kernel(parts, self._rules, must_be=engine == "numba")
        self.engine: Engine = "numpy" if self._kernel is None else "numba"
        self._nothing = bytes(8 * layout.outputs)
        self._donors = Donors.of(parts.donors, parts.donor_scales, layout.neighbours) if layout.by_neighbours else None
        self._by_neighbours = np.array([layout.numbers.index(name) for name in layout.by_neighbours], dtype=np.int64)

    @classmethod
    def from_files(cls, npz: bytes, layout_json: bytes, engine: Engine | None = None) -> Self:
        """Load what `to_files` wrote.

        Raises
        ------
        ScorerError
            When anything is damaged, inconsistent or unknown: nothing in the files is trusted.
        """
        return cls(read_parts(npz, layout_json), engine)

    def to_files(self) -> tuple[bytes, bytes]:
        """The bytes of `scorer.npz` and `scorer.json`: the same for the same model."""
        return write_parts(self._parts)

    @property
    def parts(self) -> Parts:
        """Layout and arrays, read-only."""
        return self._parts

    def score_rows(self, rows: Sequence[Sequence[Value]]) -> Floats:
        """Score rows of raw values.

        Parameters
        ----------
        rows
            Rows with a value for each of `features`, in that order: number or bool for numbers, text for categories, None
            or NaN where missing.

        Returns
        -------
        ndarray of float64, shape (n, K)
            Class probabilities, or values with K = 1.

        Raises
        ------
        ScorerError
            For a row of another length, a value of another kind, an infinite number, a level that the encoder refuses, or
            whatever else the model itself would refuse.
        """
        width = len(self.features)
        for row in rows:
            if len(row) != width:
                raise ScorerError(f"a row has {len(row)} values, not one for each of the {width} features")
        pick = self._pick_numbers
        try:
            flat = array("d", [np.nan if value is None else value for row in rows for value in pick(row)])
        except (TypeError, OverflowError):
            raise self._not_a_number(rows) from None
        numbers = np.frombuffer(flat, dtype=np.float64).reshape(len(rows), len(self._numbers))
        codes = np.array([[codes[row[at]] for at, codes in self._categories] for row in rows], dtype=np.int32)
        return self._answer(numbers, codes.reshape(len(rows), len(self._categories)))

    def score_row(self, row: Sequence[Value]) -> list[float]:
        """Score one row, K outputs: as `score_rows`, in a fraction of the time where nothing is wrong with it."""
        if self._kernel is not None and self._donors is None and len(row) == len(self.features):
            try:
                numbers = array("d", [_NAN if value is None else value for value in self._pick_numbers(row)])
            except (TypeError, OverflowError):
                raise self._not_a_number([row]) from None
            codes = array("i", [codes[row[at]] for at, codes in self._categories])
            out = array("d", self._nothing)
            if self._kernel.score_one(numbers, codes, out) == -1:
                return out.tolist()
        outputs: list[float] = self.score_rows([row])[0].tolist()
        return outputs

    def score_columns(self, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> Floats:
        """Score many rows given by column; columns that are no feature, or dropped by the model, are not looked at.

        Parameters
        ----------
        columns
            One sequence of n values per feature: numbers as float64, bool or objects with None; categories as objects, text
            or missing (None, NaN).

        Returns
        -------
        ndarray of float64, shape (n, K)

        Raises
        ------
        ScorerError
            As `score_rows`, and for a column that is absent or of another length.
        """
        layout = self._parts.layout
        absent = [name for name in (*layout.numbers, *(c.name for c in layout.categories)) if name not in columns]
        if absent:
            raise ScorerError(f"columns are absent: {', '.join(absent)}")
        numbers = [_as_floats(name, columns[name]) for name in layout.numbers]
        codes = []
        for at, lookup in self._categories:
            values = np.asarray(columns[self.features[at]], dtype=object)
            codes.append(np.fromiter((lookup[value] for value in values), dtype=np.int32, count=len(values)))
        lengths = {len(column) for column in numbers} | {len(column) for column in codes}
        if len(lengths) > 1:
            raise ScorerError(f"columns differ in length: {sorted(lengths)}")
        rows = lengths.pop()
        return self._answer(
            np.column_stack(numbers) if numbers else np.empty((rows, 0)),
            np.column_stack(codes) if codes else np.empty((rows, 0), dtype=np.int32),
        )

    def warm_up(self) -> None:
        """Compile, or load, the machine code that an answer needs."""
        row: list[Value] = [None] * len(self.features)
        for at, codes in self._categories:
            row[at] = codes.any_level
        self.score_row(row)

    def _answer(self, numbers: Floats, codes: NDArray[np.int32]) -> Floats:
        if self._donors is not None:
            if (endless := np.isinf(numbers).any(axis=0)).any():
                raise self._refusal(infinite(int(np.flatnonzero(endless)[0])))
            numbers = fill_from_donors(numbers, self._by_neighbours, self._donors, numba=self.engine == "numba")
        out = np.empty((len(numbers), self.outputs))
        if self._kernel is not None:
            refused = self._kernel.score(numbers, codes, out)
        else:
            refused = score_numpy(numbers, codes, self._parts.arrays, self._rules, out)
        if refused != -1:
            raise self._refusal(refused)
        return out

    def _refusal(self, refused: int) -> ScorerError:
        if refused < -1:
            return ScorerError(f"feature {self._parts.layout.numbers[infinite(refused)]!r} is infinite")
        return ScorerError(
            f"feature {self._feature_of(refused)!r} has a value that the model cannot take (too large, or missing)"
        )

    def _feature_of(self, encoded: int) -> str:
        layout = self._parts.layout
        names = list(layout.numbers)
        for category in layout.categories:
            names += [category.name] * category.width
        return names[encoded]

    def _not_a_number(self, rows: Sequence[Sequence[Value]]) -> ScorerError:
        for at in self._numbers:
            for row in rows:
                value = row[at]
                if value is not None and not isinstance(value, int | float):
                    return ScorerError(f"feature {self.features[at]!r}: {value!r} is no number")
        return ScorerError("a whole number is too large")


def _kernel(parts: Parts, rules: Rules, *, must_be: bool) -> "Kernel | None":
    """The compiled kernel over a model's arrays; None where numba is not installed."""
    # Numba takes half a second to import, which only those pay who answer with it.
    from mlops_assets.core.scoring.jit import NUMBA
    from mlops_assets.core.scoring.kernels import Kernel

    if NUMBA:
        return Kernel(parts.arrays, rules, parts.layout.outputs)
    if must_be:
        raise ScorerError("the numba engine is asked for, and numba is not installed: install it, or take 'numpy'")
    return None


class _Codes(dict[Any, int]):
    """Rows of a category's table by level. What is no known level goes where missing or unseen values go."""

    def __init__(self, category: CategoryLayout) -> None:
        super().__init__((level, code) for code, level in enumerate(category.levels))
        self._category = category

    @property
    def any_level(self) -> str | None:
        return self._category.levels[0] if self._category.levels else None

    def __missing__(self, value: Any) -> int:
        category = self._category
        code = len(category.levels)
        if value is None or (isinstance(value, float) and value != value):
            code = category.missing
        elif not isinstance(value, str):
            raise ScorerError(f"feature {category.name!r}: {value!r} is neither text nor missing")
        if code == len(category.levels) and category.refuse_unseen:
            raise ScorerError(f"feature {category.name!r}: {value!r} is a level that the model's encoder refuses")
        return code


def _picker(positions: tuple[int, ...]) -> Callable[[Sequence[Value]], tuple[Any, ...]]:
    if len(positions) > 1:
        return itemgetter(*positions)
    return lambda row: tuple(row[position] for position in positions)


def _as_floats(name: str, values: Sequence[Any] | NDArray[Any]) -> Floats:
    column = np.asarray(values)
    if column.dtype.kind in "fiub":
        return column.astype(np.float64)
    try:
        return np.frombuffer(array("d", [np.nan if value is None else value for value in column.tolist()]))
    except (TypeError, OverflowError) as error:
        raise ScorerError(f"feature {name!r} holds values that are no numbers: {error}") from None


class GoldenRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows with their exact answers, scored again after every load, before a model may answer.

    A missing value is None, so that JSON holds every row and answer exactly.
    """

    rows: tuple[tuple[Value, ...], ...]
    outputs: tuple[tuple[float, ...], ...]

    @classmethod
    def make(cls, scorer: Scorer, rows: Sequence[Sequence[Value]]) -> Self:
        """Score `rows` and keep the answers; raises as `of`, and what the scorer raises."""
        return cls.of(rows, scorer.score_rows(rows))

    @classmethod
    def of(cls, rows: Sequence[Sequence[Value]], outputs: Floats) -> Self:
        """Keep n rows with their answers, shape (n, K).

        Raises
        ------
        ScorerError
            When there is no row, the numbers of rows differ, or an answer is not finite, which JSON could not hold.
        """
        if len(rows) == 0 or len(rows) != len(outputs):
            raise ScorerError(f"golden rows: {len(rows)} rows with {len(outputs)} answers; at least one row is needed")
        if not np.isfinite(outputs).all():
            raise ScorerError("golden rows: an answer is not finite; choose rows of ordinary values")
        plain = tuple(tuple(_plain(value) for value in row) for row in rows)
        return cls(plain, tuple(tuple(row) for row in outputs.tolist()))

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read `golden.json`; ScorerError when it is damaged."""
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ScorerError(f"golden rows: {error}") from error

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    def verify(self, scorer: Scorer) -> None:
        """Score the rows again.

        Raises
        ------
        ScorerError
            Unless every answer equals the kept one to 1e-12, relative where the answer is above 1.
        """
        if (
            not self.rows
            or len(self.rows) != len(self.outputs)
            or {len(row) for row in self.outputs} != {scorer.outputs}
        ):
            raise ScorerError(
                f"golden rows: {len(self.rows)} rows and their answers do not fit {scorer.outputs} outputs"
            )
        expected = np.array(self.outputs)
        difference = differences(scorer.score_rows(self.rows), expected)
        if isinstance(scorer, CompiledScorer):
            # A single row takes another way than many.
            singly = np.array([scorer.score_row(row) for row in self.rows])
            difference = np.maximum(difference, differences(singly, expected))
        if not (difference <= TOLERANCE).all():
            wrong = int((~(difference <= TOLERANCE)).any(axis=1).sum())
            raise ScorerError(
                f"{wrong} of {len(self.rows)} golden rows are answered otherwise than when the model was made, by up to "
                f"{np.nanmax(difference):.3g}"
            )


def differences(answers: Floats, expected: Floats) -> Floats:
    """|answer - expected| / max(1, |expected|) by element; 0 where both are NaN or the same infinity, inf where one is."""
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(answers - expected) / np.maximum(1.0, np.abs(expected))
    same = (answers == expected) | (np.isnan(answers) & np.isnan(expected))
    return np.where(same, 0.0, np.where(np.isfinite(apart), apart, np.inf))


def _plain(value: Any) -> Value:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and value != value else value
