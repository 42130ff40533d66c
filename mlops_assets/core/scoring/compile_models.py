"""Fitted estimators as trees and coefficients: known by exact type, checked against themselves on random inputs.

Part of `compile.py`, which encodes; here is only what follows the encoder.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import ensemble, tree
from sklearn.base import is_classifier
from sklearn.dummy import DummyClassifier, DummyRegressor

from mlops_assets.core.scoring.arrays import NODE
from mlops_assets.core.scoring.scorer_files import Link

Floats = NDArray[np.float64]


class Uncompilable(ValueError):
    """A pipeline that cannot be turned into arrays; the message is the reason, and goes into the manifest."""


@dataclass(frozen=True)
class Trees:
    """T trees as the kernels walk them (see `arrays.Arrays`)."""

    nodes: NDArray[np.void]
    roots: NDArray[np.int32]
    outputs: NDArray[np.int32]
    leaves: Floats
    bits: NDArray[np.uint32]


@dataclass(frozen=True)
class CompiledModel:
    """An estimator on encoded columns: link(base + trees + coefficients @ encoded)."""

    outputs: int
    link: Link
    scale: float
    single: bool
    trees: Trees
    base: Floats
    coefficients: Floats
    accepts_missing: bool = False
    accepts_infinite: bool = False


def compile_model(model: Any, order: NDArray[np.int64]) -> CompiledModel:
    """Compile a fitted estimator.

    Parameters
    ----------
    model
        Fitted on encoded columns, W of them.
    order
        Shape (W,): the estimator's own column that stands at each place of the scorer's encoded row.

    Raises
    ------
    Uncompilable
        With the reason.
    """
    _check_classes(model)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    compiled = _compiler_of(model)(model, place)
    return replace(
        compiled,
        accepts_missing=_accepts(model, np.nan, len(order)),
        accepts_infinite=_accepts(model, np.inf, len(order)),
    )


def _check_classes(model: Any) -> None:
    if getattr(model, "n_outputs_", 1) != 1:
        raise Uncompilable(f"{type(model).__name__} has {model.n_outputs_} outputs")
    if not is_classifier(model):
        return
    if not hasattr(model, "predict_proba"):
        raise Uncompilable(f"{type(model).__name__} gives no probabilities")
    if list(model.classes_) != list(range(len(model.classes_))):
        raise Uncompilable(
            f"the classes {list(model.classes_)} are not the codes 0 to K-1: a class was absent in training"
        )


def _compiler_of(model: Any) -> Callable[[Any, NDArray[np.int64]], CompiledModel]:
    kind = type(model)
    if kind in _COMPILERS:
        return _COMPILERS[kind]
    if kind.__module__ == "lightgbm.sklearn":
        return _compile_lightgbm
    if kind.__module__.startswith("sklearn.linear_model.") and hasattr(model, "coef_"):
        return _compile_linear
    raise Uncompilable(f"there is no compiler for {kind.__module__}.{kind.__qualname__}")


def _accepts(model: Any, value: float, width: int) -> bool:
    """Whether the estimator answers a row of this value, rather than refusing it."""
    if getattr(model, "is_categorical_", None) is not None:
        return True
    try:
        _predict(model, np.full((1, width), value))
    except ValueError:
        return False
    return True


def _predict(model: Any, encoded: Floats) -> Floats:
    answers = model.predict_proba(encoded) if is_classifier(model) else model.predict(encoded).reshape(-1, 1)
    return np.asarray(answers, dtype=np.float64)


# Trees


@dataclass(frozen=True)
class _Tree:
    """One tree in an estimator's own order of nodes: arrays over its n nodes, root first.

    `left` and `right` are -1 at leaves; `bits` is (n, 8), used where `by_code`; `values` is (n, w).
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: Floats
    missing_left: NDArray[np.bool_]
    values: Floats
    by_code: NDArray[np.bool_] | None = None
    bits: NDArray[np.uint32] | None = None


def _pack(trees: list[_Tree], outputs: list[int], place: NDArray[np.int64], leaf_width: int) -> Trees:
    """Put trees one after the other, each breadth first, so that children follow parents and stand side by side."""
    nodes, roots, leaves, bits = [], [], [np.empty((0, leaf_width))], [np.empty((0, 8), dtype=np.uint32)]
    node_count = leaf_count = bits_count = 0
    for one in trees:
        order = _breadth_first(one)
        position = np.empty(len(one.left), dtype=np.int64)
        position[order] = np.arange(len(order))
        inner = one.left[order] >= 0
        packed = np.zeros(len(order), dtype=NODE)
        packed["bits"] = -1
        packed["left"][inner] = node_count + position[one.left[order][inner]]
        packed["threshold"][inner] = one.threshold[order][inner]
        packed["feature"][inner] = place[one.feature[order][inner]]
        packed["feature"][~inner] = leaf_count + np.arange((~inner).sum())
        packed["missing_left"][inner] = one.missing_left[order][inner]
        if one.by_code is not None and one.bits is not None:
            coded = inner & one.by_code[order]
            packed["bits"][coded] = bits_count + np.arange(coded.sum())
            packed["threshold"][coded] = 0.0
            bits.append(one.bits[order][coded])
            bits_count += int(coded.sum())
        nodes.append(packed)
        roots.append(node_count)
        leaves.append(one.values[order][~inner])
        node_count += len(order)
        leaf_count += int((~inner).sum())
    return Trees(
        np.concatenate([np.empty(0, dtype=NODE), *nodes]),
        np.array(roots, dtype=np.int32),
        np.array(outputs, dtype=np.int32),
        np.concatenate(leaves),
        np.concatenate(bits),
    )


def _breadth_first(one: _Tree) -> NDArray[np.int64]:
    level = np.zeros(1, dtype=np.int64)
    levels = []
    while len(level):
        levels.append(level)
        inner = level[one.left[level] >= 0]
        level = np.column_stack([one.left[inner], one.right[inner]]).ravel()
    return np.concatenate(levels)


def _no_trees() -> Trees:
    return _pack([], [], np.empty(0, dtype=np.int64), 1)


def _no_coefficients(place: NDArray[np.int64]) -> Floats:
    return np.empty((0, len(place)))


def _sklearn_tree(fitted: Any, factor: float = 1.0) -> _Tree:
    inside = fitted.tree_
    return _Tree(
        left=inside.children_left.astype(np.int64),
        right=inside.children_right.astype(np.int64),
        feature=inside.feature.astype(np.int64),
        threshold=inside.threshold.astype(np.float64),
        missing_left=inside.missing_go_to_left.astype(np.bool_),
        values=factor * inside.value[:, 0, :].astype(np.float64),
    )


def _compile_forest(model: Any, place: NDArray[np.int64]) -> CompiledModel:
    fitted = list(getattr(model, "estimators_", None) or [model])
    outputs = len(model.classes_) if is_classifier(model) else 1
    trees = _pack([_sklearn_tree(one) for one in fitted], [0] * len(fitted), place, outputs)
    return CompiledModel(outputs, "mean", float(len(fitted)), True, trees, np.zeros(outputs), _no_coefficients(place))


def _compile_gradient_boosting(model: Any, place: NDArray[np.int64]) -> CompiledModel:
    columns = model.n_features_in_
    starts = model._raw_predict_init(np.random.default_rng(0).normal(size=(8, columns)).astype(np.float32))
    if not (starts == starts[0]).all():
        raise Uncompilable(f"{type(model).__name__} starts from an estimator of its own (init)")
    raws = model.estimators_.shape[1]
    fitted = [(one, raw) for stage in model.estimators_ for raw, one in enumerate(stage)]
    trees = [_sklearn_tree(one, model.learning_rate) for one, _ in fitted]
    link, scale = _link_of(model._loss) if is_classifier(model) else _IDENTITY
    packed = _pack(trees, [raw for _, raw in fitted], place, 1)
    return CompiledModel(
        2 if link == "logit" else raws, link, scale, True, packed, starts[0].astype(np.float64), _no_coefficients(place)
    )


def _compile_hist_gradient_boosting(model: Any, place: NDArray[np.int64]) -> CompiledModel:
    trees, outputs = [], []
    known = None if model.is_categorical_ is None else model._bin_mapper.make_known_categories_bitsets()
    for iteration in model._predictors:
        for output, predictor in enumerate(iteration):
            trees.append(_hist_tree(predictor, known))
            outputs.append(output)
    raws = model.n_trees_per_iteration_
    link, scale = _link_of(model._loss)
    base = np.broadcast_to(np.asarray(model._baseline_prediction, dtype=np.float64).ravel(), (raws,))
    packed = _pack(trees, outputs, place, 1)
    return CompiledModel(2 if link == "logit" else raws, link, scale, False, packed, base, _no_coefficients(place))


def _hist_tree(predictor: Any, known: tuple[NDArray[np.uint32], NDArray[np.uint32]] | None) -> _Tree:
    nodes = predictor.nodes
    leaf = nodes["is_leaf"].astype(np.bool_)
    missing_left = nodes["missing_go_to_left"].astype(np.bool_)
    by_code = nodes["is_categorical"].astype(np.bool_) & ~leaf
    bits = np.zeros((len(nodes), 8), dtype=np.uint32)
    if by_code.any() and known is not None:
        known_bits, mapped = known
        left_bits = predictor.raw_left_cat_bitsets[nodes["bitset_idx"][by_code]]
        all_known = known_bits[mapped[nodes["feature_idx"][by_code]]]
        # codes that were never seen go where missing values go
        bits[by_code] = np.where(missing_left[by_code, None], left_bits | ~all_known, left_bits)
    return _Tree(
        left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
        right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
        feature=nodes["feature_idx"].astype(np.int64),
        threshold=nodes["num_threshold"].astype(np.float64),
        missing_left=missing_left,
        values=nodes["value"].astype(np.float64)[:, None],
        by_code=by_code,
        bits=bits,
    )


_IDENTITY: tuple[Link, float] = ("identity", 1.0)
_LINKS: dict[str, tuple[Link, float]] = {
    "IdentityLink": _IDENTITY,
    "LogLink": ("exp", 1.0),
    "LogitLink": ("logit", 1.0),
    "HalfLogitLink": ("logit", 2.0),
    "MultinomialLogit": ("softmax", 1.0),
}


def _link_of(loss: Any) -> tuple[Link, float]:
    name = type(loss.link).__name__
    if name not in _LINKS:
        raise Uncompilable(f"there is no compiler for the link {name} of {type(loss).__name__}")
    return _LINKS[name]


# LightGBM


def _compile_lightgbm(model: Any, place: NDArray[np.int64]) -> CompiledModel:
    dump = model.booster_.dump_model()
    objective = str(dump["objective"]).split()
    raws = dump["num_tree_per_iteration"]
    link, scale = _lightgbm_link(objective, raws)
    trees = [_lightgbm_tree(one["tree_structure"]) for one in dump["tree_info"]]
    if dump["average_output"]:
        raise Uncompilable("LightGBM averages its trees (boosting rf)")
    packed = _pack(trees, [at % raws for at in range(len(trees))], place, 1)
    compiled = CompiledModel(
        2 if link == "logit" else raws, link, scale, False, packed, np.zeros(raws), _no_coefficients(place)
    )
    if is_classifier(model) and len(model.classes_) != compiled.outputs:
        raise Uncompilable(f"LightGBM has {len(model.classes_)} classes and {compiled.outputs} outputs")
    return compiled


def _lightgbm_link(objective: list[str], raws: int) -> tuple[Link, float]:
    name, options = objective[0], dict(part.split(":") for part in objective[1:] if ":" in part)
    if name == "binary":
        return "logit", float(options["sigmoid"])
    if name == "multiclass":
        return "softmax", 1.0
    if "sqrt" in objective:
        raise Uncompilable("LightGBM predicts the square root (reg_sqrt)")
    if name in ("poisson", "gamma", "tweedie"):
        return "exp", 1.0
    if name in ("regression", "regression_l1", "huber", "fair", "quantile", "mape"):
        return _IDENTITY
    raise Uncompilable(f"there is no compiler for the LightGBM objective {name!r}")


def _lightgbm_tree(structure: dict[str, Any]) -> _Tree:
    nodes: list[dict[str, Any]] = []
    waiting = [structure]
    children: list[tuple[int, int]] = []
    while waiting:
        node = waiting.pop(0)
        nodes.append(node)
        if "left_child" not in node:
            children.append((-1, -1))
            continue
        first = len(nodes) + len(waiting)
        children.append((first, first + 1))
        waiting += [node["left_child"], node["right_child"]]
        if node["decision_type"] != "<=":
            raise Uncompilable("LightGBM splits on categories of its own")
        if node["missing_type"] == "Zero":
            raise Uncompilable("LightGBM takes zero for missing (zero_as_missing)")
    return _Tree(
        left=np.array([left for left, _ in children], dtype=np.int64),
        right=np.array([right for _, right in children], dtype=np.int64),
        feature=np.array([node.get("split_feature", 0) for node in nodes], dtype=np.int64),
        threshold=np.array([_lightgbm_threshold(node.get("threshold", 0.0)) for node in nodes], dtype=np.float64),
        missing_left=np.array([_lightgbm_missing_left(node) for node in nodes]),
        values=np.array([[node.get("leaf_value", 0.0)] for node in nodes], dtype=np.float64),
    )


_LIGHTGBM_ZERO = float(np.float32(1e-35))


def _lightgbm_threshold(threshold: float) -> float:
    """LightGBM reads each value of at most 1e-35 as zero, before it compares: the threshold does it here."""
    if -_LIGHTGBM_ZERO <= threshold < 0.0:
        return float(np.nextafter(-_LIGHTGBM_ZERO, -np.inf))
    return _LIGHTGBM_ZERO if 0.0 <= threshold < _LIGHTGBM_ZERO else threshold


def _lightgbm_missing_left(node: dict[str, Any]) -> bool:
    """Without missing values in training LightGBM takes a missing one for zero."""
    if node.get("missing_type") == "None":
        return bool(node["threshold"] >= 0.0)
    return bool(node.get("default_left", False))


# Linear and constant models


def _compile_linear(model: Any, place: NDArray[np.int64]) -> CompiledModel:
    coefficients = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64))
    base = np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64).ravel(), (len(coefficients),))
    ordered = np.empty_like(coefficients)
    ordered[:, place] = coefficients
    # Inputs with raw outputs between -3 and 3, where links differ: further out they all answer 0 or 1.
    wanted = np.random.default_rng(0).uniform(-3.0, 3.0, size=(64, len(base)))
    encoded = (wanted - base) @ np.linalg.pinv(coefficients).T
    expected = _predict(model, encoded)
    raw = encoded @ coefficients.T + base
    for link, answers in _linear_answers(raw, is_classifier(model)):
        if answers.shape == expected.shape and np.allclose(answers, expected, rtol=1e-12, atol=1e-12):
            return CompiledModel(answers.shape[1], link, 1.0, False, _no_trees(), base, ordered)
    raise Uncompilable(f"{type(model).__name__} does not answer with a known link of its coefficients")


def _linear_answers(raw: Floats, classes: bool) -> list[tuple[Link, Floats]]:
    if not classes:
        return [("identity", raw), ("exp", np.exp(np.minimum(raw, 700.0)))]
    if raw.shape[1] == 1:
        positive = 1.0 / (1.0 + np.exp(-raw))
        return [("logit", np.hstack([1.0 - positive, positive]))]
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    return [("softmax", powers / powers.sum(axis=1, keepdims=True))]


def _compile_constant(model: Any, place: NDArray[np.int64]) -> CompiledModel:
    if getattr(model, "strategy", None) == "stratified":
        raise Uncompilable("DummyClassifier answers at random (strategy stratified)")
    base = _predict(model, np.zeros((1, len(place))))[0]
    return CompiledModel(len(base), "identity", 1.0, False, _no_trees(), base, _no_coefficients(place))


_COMPILERS: dict[type, Callable[[Any, NDArray[np.int64]], CompiledModel]] = {
    ensemble.HistGradientBoostingClassifier: _compile_hist_gradient_boosting,
    ensemble.HistGradientBoostingRegressor: _compile_hist_gradient_boosting,
    ensemble.GradientBoostingClassifier: _compile_gradient_boosting,
    ensemble.GradientBoostingRegressor: _compile_gradient_boosting,
    **dict.fromkeys(
        (
            ensemble.RandomForestClassifier,
            ensemble.RandomForestRegressor,
            ensemble.ExtraTreesClassifier,
            ensemble.ExtraTreesRegressor,
            tree.DecisionTreeClassifier,
            tree.DecisionTreeRegressor,
            tree.ExtraTreeClassifier,
            tree.ExtraTreeRegressor,
        ),
        _compile_forest,
    ),
    DummyClassifier: _compile_constant,
    DummyRegressor: _compile_constant,
}
