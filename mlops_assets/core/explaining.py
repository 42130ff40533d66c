"""Attributing one answer of a model to its raw features: Shapley values against rows of its training, by the library `shap`.

Any scorer will do, compiled or not. Nothing here knows of requests; who may ask, and how often, is told in `serving/explain.py`.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.scoring.load import load_scorer
from mlops_assets.core.scoring.scorer import CompiledScorer, Scorer, Value

Floats = NDArray[np.float64]
Space = Literal["log-odds", "probability", "value"]

BACKGROUND = "background.json"
BACKGROUND_ROWS = 100

PERMUTATIONS = 5
_SEED = 0
_LEAST = 2.0**-53  # a probability of 0 has no logarithm, and one nearer to 1 cannot be told from it


class CannotExplain(ValueError):
    """An answer that cannot be attributed to features."""


class NotInstalled(RuntimeError):
    """What makes explanations is not installed."""


@dataclass(frozen=True)
class Question:
    """What is to be attributed: a raw row, to a bundle's model, with the values of some features taken away from the background.

    `files` are the bundle's. `row` is in the order of the contract.
    """

    bundle: str
    manifest: Manifest
    files: dict[str, bytes]
    without: tuple[str, ...]
    row: tuple[Value, ...]


class Background(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows of the training that answers are held against: `background.json` of a bundle.

    Raw values in the order of the contract, None where missing.
    """

    rows: tuple[tuple[Value, ...], ...]

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read `background.json`; CannotExplain when it is damaged or holds no row."""
        try:
            background = msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CannotExplain(f"{BACKGROUND}: {error}: train the model again") from error
        if not background.rows:
            raise CannotExplain(f"{BACKGROUND} holds no row: train the model again")
        return background

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    def without(self, names: Collection[str], features: Sequence[str]) -> Self:
        """The same rows with the values of these features taken away."""
        kept = [name not in names for name in features]
        return type(self)(tuple(tuple(v if k else None for v, k in zip(row, kept, strict=True)) for row in self.rows))


@dataclass(frozen=True)
class Attribution:
    """How one answer comes about: `base` plus the sum of `contributions` is `value`.

    Attributes
    ----------
    space
        What is added up: the log-odds of the positive class, the probability of a class, or the answered value.
    output
        Which output is explained: of two classes the positive one, of more the one that is answered; 0 of a regression.
    value, base
        Of the row, and the mean over the background.
    contributions
        One per feature, in the order of the contract.
    outputs
        All that the model answered, shape (K,).
    """

    space: Space
    output: int
    value: float
    base: float
    contributions: tuple[float, ...]
    outputs: tuple[float, ...]


def answer(question: Question) -> Attribution:
    """`attribute` for the model in a bundle's files; the last ones asked for are kept in memory. Raises what that raises."""
    if question.bundle not in _KEPT:
        while len(_KEPT) >= _MOST_KEPT:
            del _KEPT[next(iter(_KEPT))]
        background = Background.from_json(question.files[BACKGROUND])
        _KEPT[question.bundle] = load_scorer(question.manifest, question.files), background
    scorer, background = _KEPT[question.bundle]
    background = background.without(question.without, scorer.features)
    return attribute(question.manifest, scorer, background, question.row)


_MOST_KEPT = 4
_KEPT: dict[str, tuple[Scorer, Background]] = {}


def attribute(manifest: Manifest, scorer: Scorer, background: Background, row: Sequence[Value]) -> Attribution:
    """Shapley values of one raw row: what each value adds to the answer, against a background row's value in its place.

    A feature counts as absent where it has a background row's value, averaged over all of these (interventional; Štrumbelj and
    Kononenko 2014, Lundberg and Lee 2017). Exact where few features differ from the background; else by five random orders of the
    features and their reverses, the same ones at each call, which is exact for interactions of two features.

    Parameters
    ----------
    row
        Values in the order of the contract, None where missing.

    Raises
    ------
    ScorerError
        When the model refuses the row.
    CannotExplain
        When it gives no finite number for the row, or for a mixture of it and the background.
    NotInstalled
        Without `shap`.
    """
    game = _Game.of(manifest, scorer, background, row)
    contributions = np.zeros(len(row))
    if not len(game.varying):
        return game.attribution(game.value, contributions)
    base, contributions[game.varying] = _shapley(game.answers, game.sources)
    return game.attribution(base, contributions)


def warm_up() -> None:
    """Import `shap` and let it compile what it needs, which takes seconds. Raises `NotInstalled`."""
    for count in (2, 12):
        _shapley(lambda sources: sources.sum(axis=1), np.ones((2, count)))


def _shapley(answers: Callable[[Floats], Floats], sources: Floats) -> tuple[float, Floats]:
    """The mean answer to the background's sources (n, v), and what it adds to take each column from source 0 instead, (v,)."""
    shap = _shap()
    masker = shap.maskers.Independent(sources, max_samples=len(sources))
    count = sources.shape[1]
    evaluations = PERMUTATIONS * (2 * count + 1)
    own = np.zeros((1, count))
    if 2**count <= evaluations:
        found = shap.ExactExplainer(answers, masker)(own, max_evals=2**count, silent=True)
    else:
        found = shap.PermutationExplainer(answers, masker, seed=_SEED)(own, max_evals=evaluations, silent=True)
    return float(found.base_values[0]), found.values[0]


@dataclass(frozen=True)
class _Game:
    """The row and its background with each value replaced by where it comes from, so that equal means the same value.

    `shap` takes numbers for the same that are merely close, and knows no text and no missing values.

    Attributes
    ----------
    columns
        By feature, the row's value and those of the background, (n + 1,).
    varying
        Positions of the features that differ from the background in any row, (v,).
    sources
        Of each background row (n, v) where a value is taken from: 0 is the row to be explained, which has the same value.
    """

    manifest: Manifest
    scorer: Scorer
    columns: tuple[NDArray[Any], ...]
    varying: NDArray[np.intp]
    sources: Floats
    space: Space
    output: int
    outputs: tuple[float, ...]
    value: float

    @classmethod
    def of(cls, manifest: Manifest, scorer: Scorer, background: Background, row: Sequence[Value]) -> "_Game":
        outputs = scorer.score_rows([row])
        space, output = _space(manifest, scorer), _explained(manifest, outputs[0])
        value = float(_in_space(outputs, space, output)[0])
        if not np.isfinite(value):
            raise CannotExplain("the model gives no finite number for this row")
        table = list(zip(row, *background.rows, strict=True))
        differs = np.array([[not _same(values[0], other) for other in values[1:]] for values in table]).T
        differs &= [feature.name in manifest.imputation.kept for feature in manifest.features]
        varying = np.flatnonzero(differs.any(axis=0))
        sources = differs * np.arange(1, len(background.rows) + 1)[:, None]
        return cls(
            manifest=manifest,
            scorer=scorer,
            columns=tuple(
                np.array(values, dtype=object if feature.type == "category" else np.float64)
                for feature, values in zip(manifest.features, table, strict=True)
            ),
            varying=varying,
            sources=sources[:, varying].astype(np.float64),
            space=space,
            output=output,
            outputs=tuple(outputs[0].tolist()),
            value=value,
        )

    def answers(self, sources: Floats) -> Floats:
        """What the model answers to mixtures of the row and its background, each given by its sources (m, v); shape (m,)."""
        chosen = np.zeros((len(sources), len(self.columns)), dtype=np.intp)
        chosen[:, self.varying] = sources
        mixed = [column[chosen[:, at]] for at, column in enumerate(self.columns)]
        if isinstance(self.scorer, CompiledScorer):
            names = (feature.name for feature in self.manifest.features)
            outputs = self.scorer.score_columns(dict(zip(names, mixed, strict=True)))
        else:
            outputs = self.scorer.score_rows(list(zip(*(column.tolist() for column in mixed), strict=True)))
        answers = _in_space(outputs, self.space, self.output)
        if not np.isfinite(answers).all():
            raise CannotExplain("the model gives no finite number for this row with values of its training in it")
        return answers

    def attribution(self, base: float, contributions: Floats) -> Attribution:
        return Attribution(self.space, self.output, self.value, base, tuple(contributions.tolist()), self.outputs)


def _shap() -> Any:
    # Heavy, and seldom needed: not before the first explanation.
    try:
        import shap
    except ImportError as error:
        raise NotInstalled("explanations need the library shap: install the extra mlops-assets[explain]") from error
    return shap


def _space(manifest: Manifest, scorer: Scorer) -> Space:
    """Log-odds where the model adds these up by itself. A forest has probabilities of 0 and 1, whose log-odds are infinite."""
    if manifest.task == "regression":
        return "value"
    is_logit = isinstance(scorer, CompiledScorer) and scorer.parts.layout.link == "logit"
    return "log-odds" if is_logit else "probability"


def _explained(manifest: Manifest, outputs: Floats) -> int:
    return {"regression": 0, "binary": 1, "multiclass": int(np.argmax(outputs))}[manifest.task]


def _in_space(outputs: Floats, space: Space, output: int) -> Floats:
    if space != "log-odds":
        return outputs[:, output]
    negative, positive = np.maximum(outputs, _LEAST).T
    answers: Floats = np.log(positive) - np.log(negative)
    return answers


def _same(own: Value, other: Value) -> bool:
    return own == other or (own is None and other is None)
