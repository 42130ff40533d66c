"""The scorer by itself: what it takes and refuses, its files, and what it makes of damaged ones."""

import subprocess
import sys
import threading
import zipfile
from io import BytesIO
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.scoring.compile import compile_pipeline
from mlops_assets.core.scoring.scorer import CompiledScorer, GoldenRows, ScorerError
from mlops_assets.core.scoring.scorer_files import Parts, make_parts, write_parts
from mlops_assets_tests.core.tables import fit, make_spec, make_table

ROW = ("AA", 500.0, 100, "JFK", None, 12.5, True)


@pytest.fixture(scope="module")
def scorer() -> CompiledScorer:
    """A multiclass model with native categories, neighbours and a dropped feature."""
    spec = make_spec(
        "multiclass",
        "sklearn.ensemble.HistGradientBoostingClassifier",
        training={"parameters": {"max_iter": 4}, "native_categories": True},
        imputation={"number": "knn", "max_donors": 30},
    )
    return compile_pipeline(*fit(spec, make_table(300, task="multiclass")))


@pytest.fixture(scope="module")
def refusing() -> CompiledScorer:
    """A forest, which takes no number beyond float32, behind an encoder that refuses unseen levels."""
    encoder = {"estimator": "sklearn.preprocessing.OrdinalEncoder"}
    spec = make_spec(
        "binary",
        "sklearn.ensemble.RandomForestClassifier",
        training={"parameters": {"n_estimators": 3}, "category_encoder": encoder},
        imputation={"category": "most_frequent"},
    )
    return compile_pipeline(*fit(spec, make_table(300)))


def test_one_row_many_rows_and_columns_agree(scorer: CompiledScorer) -> None:
    table = make_table(700, seed=3, task="multiclass")
    rows = [
        [None if value != value else value for value in row] for row in table[list(scorer.features)].to_numpy(object)
    ]
    together = scorer.score_rows(rows)
    assert together.shape == (700, scorer.outputs)
    assert together.dtype == np.float64
    assert np.array_equal(together, np.vstack([scorer.score_rows([row]) for row in rows]))
    assert np.array_equal(together, scorer.score_columns({name: table[name] for name in scorer.features}))


def test_a_single_row_is_answered_as_among_others(refusing: CompiledScorer) -> None:
    table = make_table(300, seed=5)
    rows = [
        [None if value != value else value for value in row] for row in table[list(refusing.features)].to_numpy(object)
    ]
    assert [refusing.score_row(row) for row in rows] == refusing.score_rows(rows).tolist()
    plain = CompiledScorer.from_files(*refusing.to_files(), engine="numpy")
    np.testing.assert_allclose([plain.score_row(row) for row in rows], refusing.score_rows(rows), atol=1e-12)


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize(
    "row",
    [
        ROW[:-1],
        ("AA", "500", *ROW[2:]),
        ("AA", float("inf"), *ROW[2:]),
        ("AA", -float("inf"), *ROW[2:]),
        ("AA", 10**400, *ROW[2:]),
        ("AA", 1e39, *ROW[2:]),
        (7, *ROW[1:]),
        ("ZZ", *ROW[1:]),
    ],
)
def test_a_single_row_is_refused_for_the_same_reason(refusing: CompiledScorer, row: Any, engine: Any) -> None:
    scorer = CompiledScorer.from_files(*refusing.to_files(), engine=engine)
    with pytest.raises(ScorerError) as together:
        scorer.score_rows([ROW, row])
    with pytest.raises(ScorerError) as alone:
        scorer.score_row(row)
    assert str(alone.value) == str(together.value)


def test_no_rows_give_no_answers(scorer: CompiledScorer) -> None:
    assert scorer.score_rows([]).shape == (0, 3)


def test_missing_is_none_or_nan(scorer: CompiledScorer) -> None:
    empty = [None] * len(scorer.features)
    assert np.array_equal(scorer.score_rows([empty]), scorer.score_rows([[float("nan")] * len(empty)]))


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (1, "500", "'distance': '500' is no number"),
        (1, float("inf"), "'distance' is infinite"),
        (2, 10**400, "too large"),
        (0, 7, "'carrier': 7 is neither text nor missing"),
        (3, True, "'origin': True is neither text"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(scorer: CompiledScorer, position: int, value: Any, message: str) -> None:
    row = [*ROW[:position], value, *ROW[position + 1 :]]
    with pytest.raises(ScorerError, match=message):
        scorer.score_rows([ROW, row])


def test_a_row_of_the_wrong_length_is_refused(scorer: CompiledScorer) -> None:
    with pytest.raises(ScorerError, match="6 values"):
        scorer.score_rows([ROW[:-1]])


def test_columns_absent_uneven_or_of_text_are_refused(scorer: CompiledScorer) -> None:
    columns: dict[str, Any] = {name: [value] * 3 for name, value in zip(scorer.features, ROW, strict=True)}
    with pytest.raises(ScorerError, match="absent: temp"):
        scorer.score_columns({name: values for name, values in columns.items() if name != "temp"})
    with pytest.raises(ScorerError, match="length"):
        scorer.score_columns({**columns, "temp": [1.0]})
    with pytest.raises(ScorerError, match="'temp'"):
        scorer.score_columns({**columns, "temp": ["a", "b", "c"]})


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_what_scikit_learn_refuses_is_refused(refusing: CompiledScorer, engine: Any) -> None:
    scorer = CompiledScorer.from_files(*refusing.to_files(), engine=engine)
    scorer.warm_up()
    with pytest.raises(ScorerError, match="'carrier': 'ZZ'"):
        scorer.score_rows([("ZZ", *ROW[1:])])
    with pytest.raises(ScorerError, match="'distance'"):
        scorer.score_rows([("AA", 1e39, *ROW[2:])])


@pytest.mark.parametrize("which", ["scorer", "refusing"])
def test_threads_share_a_scorer(which: str, request: pytest.FixtureRequest) -> None:
    scorer: CompiledScorer = request.getfixturevalue(which)
    rows = make_table(200, seed=4, task="multiclass")[list(scorer.features)].to_numpy(object).tolist()
    expected = scorer.score_rows(rows)
    wrong: list[int] = []

    def score(start: int) -> None:
        for at in range(start, len(rows), 4):
            if scorer.score_row(rows[at]) != expected[at].tolist():
                wrong.append(at)

    threads = [threading.Thread(target=score, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_files_are_the_same_bytes_and_numpy_reads_them(scorer: CompiledScorer) -> None:
    npz, layout = scorer.to_files()
    assert CompiledScorer.from_files(npz, layout).to_files() == (npz, layout)
    assert scorer.to_files() == (npz, layout)
    with np.load(BytesIO(npz), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["leaves"], scorer.parts.arrays.leaves)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_bytes_are_refused_or_change_nothing(data: st.DataObject, scorer: CompiledScorer) -> None:
    """Only what zip does not read, such as a time stamp, may go unnoticed; nothing may crash or hang."""
    files = [bytearray(part) for part in scorer.to_files()]
    which = data.draw(st.integers(0, 1))
    at = data.draw(st.integers(0, len(files[which]) - 1))
    if data.draw(st.booleans()):
        files[which][at] ^= data.draw(st.integers(1, 255))
    else:
        del files[which][at:]
    try:
        loaded = CompiledScorer.from_files(bytes(files[0]), bytes(files[1]))
        answers = loaded.score_rows([[None] * len(loaded.features)])
    except ScorerError:
        return
    assert answers.shape[1] == loaded.outputs
    if which == 0:
        assert np.array_equal(answers, scorer.score_rows([[None] * len(scorer.features)]))


def damaged(parts: Parts, name: str, index: Any, value: Any, field: str | None = None) -> Parts:
    arrays = {**parts.arrays._asdict(), "donors": parts.donors, "donor_scales": parts.donor_scales}
    arrays = {key: array.copy() for key, array in arrays.items()}
    (arrays[name] if field is None else arrays[name][field])[index] = value
    return make_parts(parts.layout, arrays)


DAMAGES = [
    ("nodes", 0, 0, "left", "bitset|leaf|child"),
    ("nodes", 0, 10**9, "left", "child"),
    ("nodes", 0, -5, "left", "child"),
    ("nodes", 2, 1, "left", "child"),
    ("nodes", 0, 999, "feature", "feature"),
    ("nodes", 0, -1, "feature", "feature"),
    ("nodes", -1, 10**8, "feature", "leaf"),
    ("nodes", 0, 10**6, "bits", "bitset"),
    ("nodes", 0, -7, "bits", "bitset"),
    ("nodes", 0, float("nan"), "threshold", "threshold"),
    ("nodes", 0, 7, "missing_left", "missing_left"),
    ("roots", 0, 5, None, "roots"),
    ("roots", 1, 0, None, "roots"),
    ("roots", -1, 10**9, None, "roots"),
    ("tree_outputs", 0, 3, None, "tree_outputs"),
    ("tree_outputs", 0, -1, None, "tree_outputs"),
    ("leaves", 0, float("nan"), None, "leaves"),
    ("base", 0, float("inf"), None, "base"),
    ("tables", 0, float("inf"), None, "tables"),
    ("table_starts", 1, 10**12, None, "table"),
    ("table_widths", 0, -1, None, "table"),
    ("fills", 0, float("inf"), None, "fills"),
    ("affine", (0, 1), 0.0, None, "affine"),
    ("affine", (0, 4), float("nan"), None, "affine"),
    ("donors", 0, float("inf"), None, "donors"),
    ("donor_scales", 0, 0.0, None, "donor_scales"),
]


@pytest.mark.parametrize(("name", "index", "value", "field", "message"), DAMAGES)
def test_an_index_out_of_range_or_a_strange_number_is_refused(
    scorer: CompiledScorer, name: str, index: Any, value: Any, field: str | None, message: str
) -> None:
    if (name, index, value, field) == ("nodes", 0, 0, "left"):
        parts = damaged(
            scorer.parts, name, index, value, field
        )  # a root may well be a leaf, if its row of leaves is there
        assert CompiledScorer(parts).score_rows([ROW]).shape == (1, 3)
        return
    with pytest.raises(ScorerError, match=message):
        damaged(scorer.parts, name, index, value, field)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"outputs": 2}, "outputs"),
        ({"link": "logit"}, "outputs"),
        ({"link": "probit"}, "cannot be read"),
        ({"scale": 0.0}, "scale"),
        ({"neighbours": 0}, "neighbours"),
        ({"neighbours": 10**15}, "neighbours"),
        ({"features": ["a", "b"]}, "inputs"),
        ({"numbers": ["distance", "distance", "seats", "temp"]}, "inputs"),
        ({"by_neighbours": ["carrier"]}, "by_neighbours"),
        ({"shapes": {}}, "other arrays"),
        ({"unknown": 1}, "cannot be read"),
    ],
)
def test_a_changed_layout_is_refused(scorer: CompiledScorer, changes: dict[str, Any], message: str) -> None:
    npz, layout = scorer.to_files()
    changed = msgspec.json.encode({**msgspec.json.decode(layout), **changes})
    with pytest.raises(ScorerError, match=message):
        CompiledScorer.from_files(npz, changed)


def test_a_shape_of_any_size_allocates_nothing(scorer: CompiledScorer) -> None:
    npz, layout = scorer.to_files()
    plain = msgspec.json.decode(layout)
    for shape in ([10**18], [-1], [2**62, 4], [1, 1, 1]):
        plain["shapes"]["fills"] = shape
        with pytest.raises(ScorerError, match="fills"):
            CompiledScorer.from_files(npz, msgspec.json.encode(plain))


def test_deflated_or_pickled_arrays_are_refused(scorer: CompiledScorer) -> None:
    npz, layout = scorer.to_files()
    deflated, pickled = BytesIO(), BytesIO()
    with zipfile.ZipFile(BytesIO(npz)) as source, zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    np.savez(pickled, **dict.fromkeys(scorer.parts.layout.shapes, np.array([object()], dtype=object)))
    for data in (deflated.getvalue(), pickled.getvalue()):
        with pytest.raises(ScorerError):
            CompiledScorer.from_files(data, layout)


def test_arrays_of_a_scorer_cannot_be_written(scorer: CompiledScorer) -> None:
    assert not any(array.flags.writeable for array in scorer.parts.arrays)


def test_golden_rows_come_back_exactly_and_hold(scorer: CompiledScorer) -> None:
    rows = [ROW, [None] * 7, ("ZZ", 0.1 + 0.2, -3, "", float("nan"), 5e-324, False)]
    golden = GoldenRows.make(scorer, rows)
    again = GoldenRows.from_json(golden.to_json())
    assert again == golden
    again.verify(CompiledScorer.from_files(*scorer.to_files(), engine="numpy"))


def test_golden_rows_refuse_another_model(scorer: CompiledScorer, refusing: CompiledScorer) -> None:
    golden = GoldenRows.make(scorer, [ROW, [None] * 7])
    base = scorer.parts.arrays.base[0]
    other = CompiledScorer(damaged(scorer.parts, "base", 0, base + 1e-9))
    with pytest.raises(ScorerError, match="2 of 2 golden rows"):
        golden.verify(other)
    with pytest.raises(ScorerError, match="do not fit 2 outputs"):
        golden.verify(refusing)
    with pytest.raises(ScorerError, match="at least one row"):
        GoldenRows.make(scorer, [])
    with pytest.raises(ScorerError, match="golden rows"):
        GoldenRows.from_json(b"{")


def test_written_parts_are_what_the_scorer_writes(scorer: CompiledScorer) -> None:
    assert write_parts(scorer.parts) == scorer.to_files()


def test_importing_the_scorer_brings_in_no_heavy_library() -> None:
    code = "import sys, mlops_assets.core.scoring.scorer, mlops_assets.core.scoring.domain; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"pandas", "sklearn", "pydantic", "mlflow"} & set(loaded)
