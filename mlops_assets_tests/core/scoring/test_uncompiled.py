"""Models that scikit-learn answers: loaded from skops bytes, with nothing made that is not allowed."""

import io
import zipfile
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.scoring.persist import dump_pipeline
from mlops_assets.core.scoring.scorer import ScorerError
from mlops_assets.core.scoring.uncompiled import PipelineScorer, UncompiledError
from mlops_assets.core.training import predict
from mlops_assets_tests.core.tables import fit, make_spec, make_table

TABLE = make_table(200)


def fitted(estimator: str, **parameters: Any) -> tuple[Any, bytes, Manifest]:
    pipeline, contract = fit(make_spec("binary", estimator, training={"parameters": parameters}), TABLE)
    data, trusted = dump_pipeline(pipeline)
    at = datetime(2013, 3, 1, tzinfo=UTC)
    plan = pipeline.named_steps["impute"].plan
    manifest = Manifest(
        "toy", 1, "binary", contract, "y", ("0", "1"), 0.5, plan, "id", "at", at, at, at, 200, "", "", {}, {}, "", "", 0.5,
        "not compilable", trusted, {},
    )  # fmt: skip
    return pipeline, data, manifest


def test_answers_are_those_of_the_pipeline() -> None:
    pipeline, data, manifest = fitted("sklearn.neighbors.KNeighborsClassifier")
    scorer = PipelineScorer(data, manifest)
    scorer.warm_up()
    rows = TABLE[list(scorer.features)].to_numpy(object).tolist()
    assert scorer.outputs == 2
    assert np.array_equal(scorer.score_rows(rows), predict(pipeline, TABLE))
    single = [[None if value != value else value for value in rows[0]]]
    assert np.array_equal(scorer.score_rows(single), predict(pipeline, TABLE.head(1)))


def test_a_value_of_the_wrong_kind_is_refused() -> None:
    _, data, manifest = fitted("sklearn.neighbors.KNeighborsClassifier")
    with pytest.raises(ScorerError):
        PipelineScorer(data, manifest).score_rows([["AA", "far", 100, "JFK", None, 12.5, True]])


def test_types_of_other_packages_must_be_listed() -> None:
    pytest.importorskip("lightgbm")
    _, data, manifest = fitted("lightgbm.LGBMClassifier", n_estimators=2, verbose=-1)
    assert "lightgbm.sklearn.LGBMClassifier" in manifest.trusted_types
    rows = TABLE[[feature.name for feature in manifest.features]].to_numpy(object).tolist()
    assert PipelineScorer(data, manifest).score_rows(rows).shape == (200, 2)
    unlisted = {name: getattr(manifest, name) for name in manifest.__struct_fields__} | {"trusted_types": ()}
    with pytest.raises(UncompiledError, match="lightgbm"):
        PipelineScorer(data, Manifest(**unlisted))


def test_a_function_of_numpy_is_not_made() -> None:
    """`numpy.testing` has functions that run code: a prefix is no allow-list."""
    _, data, manifest = fitted("sklearn.tree.DecisionTreeClassifier")
    for name in (b"numpy.testing._private.utils", b"sklearn.utils._testing"):
        forged = _replaced(data, b'"sklearn.tree._tree"', b'"' + name + b'"', b'"Tree"', b'"runstring"')
        with pytest.raises(UncompiledError, match=r"runstring|read"):
            PipelineScorer(forged, manifest)


def test_damaged_bytes_are_refused() -> None:
    _, data, manifest = fitted("sklearn.tree.DecisionTreeClassifier")
    for damaged in (b"", b"no zip", data[: len(data) // 2]):
        with pytest.raises(UncompiledError):
            PipelineScorer(damaged, manifest)


def _replaced(data: bytes, *pairs: bytes) -> bytes:

    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "schema.json":
                for old, new in zip(pairs[::2], pairs[1::2], strict=True):
                    assert old in content
                    content = content.replace(old, new)
            target.writestr(name, content)
    return out.getvalue()
