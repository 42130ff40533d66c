"""A table is answered as the service would answer its rows, whole or not at all, and no row gets lost."""

import gc
import gzip
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import numpy as np
import pandas as pd
import pytest

from mlops_assets.core.batch import Part, TableScorer
from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.operations import batch
from mlops_assets.operations.batch import Batch, BatchRefused, quarantine_path, score_table
from mlops_assets.operations.stores import Stores
from mlops_assets.sources.errors import SourceError
from mlops_assets.stores.home import Home
from mlops_assets_tests.operations.rollback_examples import bundled, released, stores_in
from mlops_assets_tests.serving.factory import SmallModel, Task, answered_outputs, release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest

ROWS = 120


def table(model: SmallModel, folder: Path, rows: int = ROWS) -> Path:
    """Fresh rows with an id each, as a Parquet file."""
    frame = model.fresh.head(rows).drop(columns=[model.spec.label.column])
    path = folder / "input.parquet"
    frame.assign(id=[f"p{number}" for number in range(len(frame))]).to_parquet(path)
    return path


def scored(model: SmallModel, home: Home, source: object, output: Path, **options: Any) -> tuple[Batch, pd.DataFrame]:
    done = score_table(model.spec, Stores(home), str(source), str(output), **options)
    return done, pd.read_parquet(done.output)


def outputs_in(model: SmallModel, answers: pd.DataFrame) -> np.ndarray:
    if model.manifest.task == "regression":
        return answers[["prediction"]].to_numpy()
    if model.manifest.task == "multiclass":
        return answers[[f"probability.{name}" for name in model.manifest.classes]].to_numpy()
    return np.column_stack([1 - answers["probability"], answers["probability"]])


def change(stores: Stores, **changes: Any) -> ReleasePlan:
    """Publish the plan in force once more with these changes."""
    current = stores.releases.current("delay")
    assert current is not None
    plan = msgspec.structs.replace(current, release=current.release + 1, previous=current.release, **changes)
    stores.releases.publish(plan)
    return plan


@pytest.mark.parametrize(
    ("task", "compiled", "changes"),
    [
        ("binary", True, {}),
        ("multiclass", True, {}),
        ("regression", True, {}),
        ("binary", False, {}),
        ("binary", True, {"masked": ("temp", "carrier")}),
        ("binary", False, {"masked": ("temp", "carrier")}),
        ("binary", True, {"fallen_back": True, "fallback_value": 0.25}),
        ("multiclass", True, {"fallen_back": True, "fallback_value": "late"}),
    ],
)
def test_answers_are_those_of_the_service(tmp_path: Path, task: Task, compiled: bool, changes: dict[str, Any]) -> None:
    model, home = small_model(task=task, compiled=compiled), Home(tmp_path / "home")
    release(home, model)
    if changes:
        change(Stores(home), **changes)
    source = table(model, tmp_path)
    with AppUnderTest(home) as app:
        body = [{"features": row, "id": f"p{number}"} for number, row in enumerate(model.request_rows(ROWS))]
        answer = app.post("/v1/models/delay/predict", {"rows": body}).json()
    done, answers = scored(model, home, source, tmp_path / "out.parquet", part_rows=50)
    assert (done.rows, done.scored, done.quarantined) == (ROWS, ROWS, 0)
    asked = answer["predictions"]
    expected = np.array([answered_outputs(model, one) for one in asked])
    np.testing.assert_allclose(outputs_in(model, answers), expected, rtol=0, atol=1e-12)
    assert answers["prediction"].tolist() == pytest.approx([one["prediction"] for one in asked], abs=1e-12)
    assert answers["id"].tolist() == [one["prediction_id"] for one in asked]
    assert answers["imputed"].tolist() == [",".join(one["imputed"]) for one in asked]
    assert answers["out_of_domain"].tolist() == [",".join(one["out_of_domain"]) for one in asked]
    assert set(answers["version"]) == {answer["model_version"]}
    assert set(answers["release"]) == {answer["release"]}
    assert set(answers["role"]) == {answer["role"]}
    assert answers["entity"].tolist() == model.fresh["flight"].head(ROWS).tolist()
    assert answers["event_time"].tolist() == model.fresh["at"].head(ROWS).tolist()


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_no_more_than_two_parts_are_held_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """The one that is scored, and the one that was read before it: however long the table is."""
    model, home = small_model(), Home(tmp_path / "home")
    release(home, model)
    source = table(model, tmp_path)
    if ending == "csv":
        pd.read_parquet(source).to_csv(source.with_suffix(".csv"), index=False)
    seen: list[weakref.ref[Any]] = []
    sizes: list[int] = []
    score = TableScorer.score

    def watched(self: TableScorer, frame: pd.DataFrame, first_row: int) -> Part:
        gc.collect()
        assert sum(one() is not None for one in seen) <= 4, "two frames and two answers"
        part = score(self, frame, first_row)
        seen.extend([weakref.ref(frame), weakref.ref(part.answers)])
        sizes.append(len(frame))
        return part

    monkeypatch.setattr(TableScorer, "score", watched)
    done, _ = scored(model, home, source.with_suffix(f".{ending}"), tmp_path / "out.parquet", part_rows=10)
    assert (done.rows, max(sizes), len(sizes)) == (ROWS, 10, 12)


def test_a_csv_file_is_scored_to_the_last_bit(tmp_path: Path) -> None:
    """pandas reads one number in five one bit off, which may be the other side of a tree's threshold."""
    model, home = small_model(), Home(tmp_path / "home")
    release(home, model)
    frame = pd.read_parquet(table(model, tmp_path))
    frame["holiday"] = frame["holiday"].map({1.0: "true", 0.0: "0"})
    frame.to_csv(tmp_path / "input.csv", index=False)
    _, from_csv = scored(model, home, tmp_path / "input.csv", tmp_path / "a.parquet", part_rows=7)
    _, from_parquet = scored(model, home, tmp_path / "input.parquet", tmp_path / "b.parquet")
    pd.testing.assert_frame_equal(from_csv, from_parquet, check_exact=True)
    (tmp_path / "input.csv.gz").write_bytes(gzip.compress((tmp_path / "input.csv").read_bytes()))
    _, zipped = scored(model, home, tmp_path / "input.csv.gz", tmp_path / "c.parquet")
    pd.testing.assert_frame_equal(zipped, from_parquet, check_exact=True)


def test_answers_can_be_a_csv_file(tmp_path: Path) -> None:
    model, home = small_model(), Home(tmp_path / "home")
    release(home, model)
    source = table(model, tmp_path)
    _, expected = scored(model, home, source, tmp_path / "out.parquet")
    score_table(model.spec, Stores(home), str(source), str(tmp_path / "out.csv"))
    answers = pd.read_csv(tmp_path / "out.csv", keep_default_na=False, float_precision="round_trip")
    assert answers["probability"].tolist() == expected["probability"].tolist()
    assert (tmp_path / "out.quarantine.csv").read_text().startswith('"row","id","flight"')


def broken_rows(model: SmallModel, folder: Path) -> Path:
    frame = model.fresh.head(40).astype(object)
    frame.loc[3, "temp"] = "warm"
    frame.loc[5, "distance"] = None
    frame.loc[7, "seats"] = 1.5
    frame.loc[7, "at"] = "yesterday"
    frame.loc[9, "temp"] = float("inf")
    frame.loc[11, "at"] = None
    frame.loc[12, "at"] = "2013-01-01T00:00:00"
    frame["at"] = frame["at"].map(lambda at: at if at is None or isinstance(at, str) else at.isoformat())
    frame["temp"] = frame["temp"].map(str).where(frame["temp"].notna(), None)
    frame.to_parquet(folder / "broken.parquet")
    return folder / "broken.parquet"


REASONS = {
    3: "temp: expected a finite number",
    5: "distance: expected a value",
    7: "at: expected a time with its zone; seats: expected a whole number",
    9: "temp: expected a finite number",
    12: "at: expected a time with its zone",
}


@pytest.mark.parametrize("part_rows", [1, 3, 100])
def test_rows_without_an_answer_are_kept_with_their_reasons(tmp_path: Path, part_rows: int) -> None:
    """Also where a part holds nothing but broken values in a column, which says nothing of the other parts."""
    model, home = small_model(), Home(tmp_path / "home")
    release(home, model)
    done, answers = scored(model, home, broken_rows(model, tmp_path), tmp_path / "out.parquet", part_rows=part_rows)
    quarantine = pd.read_parquet(quarantine_path(str(tmp_path / "out.parquet")))
    assert dict(zip(quarantine["row"], quarantine["quarantine_reason"], strict=True)) == REASONS
    assert quarantine["temp"].iloc[0] == "warm"
    assert sorted([*answers["row"], *quarantine["row"]]) == list(range(40))
    assert (done.rows, done.scored, done.quarantined) == (40, 35, 5)
    assert dict(done.reasons)["temp: expected a finite number"] == 2
    assert answers.set_index("row").loc[11, "event_time"] is pd.NaT
    expected = model.expected(40)[answers["row"], 1]
    np.testing.assert_allclose(answers["probability"], expected, rtol=0, atol=1e-12)


def test_a_value_in_no_closed_domain_has_no_answer_and_a_new_one_in_an_open_one_is_flagged(tmp_path: Path) -> None:
    model, home = small_model(), Home(tmp_path / "home")
    release(home, model)
    features = [
        one.model_copy(update={"domain": "closed"}) if one.name == "seats" else one for one in model.spec.features
    ]
    spec = model.spec.model_copy(update={"features": tuple(features)})
    frame = model.fresh.head(4).assign(
        seats=[100, 9000, 100, 100], carrier=["AA", "AA", "ZZ", None], temp=[1, 1, 999, None]
    )
    frame.to_parquet(tmp_path / "new.parquet")
    done = score_table(spec, Stores(home), str(tmp_path / "new.parquet"), str(tmp_path / "out.parquet"))
    answers = pd.read_parquet(done.output).set_index("row")
    assert dict(done.reasons) == {"seats: expected at most 500": 1}
    assert answers.index.tolist() == [0, 2, 3]
    assert answers.loc[2, "out_of_domain"] == "temp,carrier"
    assert answers.loc[3, "imputed"].startswith("temp")


def test_scoring_again_gives_the_same_files(tmp_path: Path) -> None:
    model, home = small_model(), Home(tmp_path / "home")
    release(home, model)
    source, output = broken_rows(model, tmp_path), tmp_path / "out" / "answers.parquet"
    files = (output, Path(quarantine_path(str(output))))
    scored(model, home, source, output)
    first = [file.read_bytes() for file in files]
    scored(model, home, source, output)
    assert [file.read_bytes() for file in files] == first
    assert sorted(os.listdir(output.parent)) == sorted(file.name for file in files)


def test_what_is_interrupted_leaves_the_former_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, home = small_model(), Home(tmp_path / "home")
    release(home, model)
    source, output = table(model, tmp_path), tmp_path / "out" / "answers.parquet"
    scored(model, home, source, output)
    first = output.read_bytes()
    (output.parent / ".incoming-answers.parquet").write_bytes(b"left by a process that was killed")
    original = batch.TableScorer.score

    def tired(self: batch.TableScorer, frame: pd.DataFrame, first_row: int) -> Any:
        if first_row:
            raise KeyboardInterrupt
        return original(self, frame, first_row)

    monkeypatch.setattr(batch.TableScorer, "score", tired)
    with pytest.raises(KeyboardInterrupt):
        scored(model, home, source, output, part_rows=50)
    assert output.read_bytes() == first
    assert sorted(os.listdir(output.parent)) == ["answers.parquet", "answers.quarantine.parquet"]


def test_any_store_will_do(tmp_path: Path) -> None:
    model, home = small_model(), Home(tmp_path / "home")
    release(home, model)
    pd.read_parquet(table(model, tmp_path)).to_parquet("memory://batch/in.parquet")
    done = score_table(model.spec, Stores(home), "memory://batch/in.parquet", "memory://batch/out/answers.parquet")
    assert len(pd.read_parquet("memory://batch/out/answers.parquet")) == done.scored == ROWS
    names = fsspec.filesystem("memory").ls("/batch/out", detail=False)
    assert sorted(names) == ["/batch/out/answers.parquet", "/batch/out/answers.quarantine.parquet"]


def test_an_empty_table_is_an_empty_answer(tmp_path: Path) -> None:
    model, home = small_model(), Home(tmp_path / "home")
    release(home, model)
    model.fresh.head(0).to_parquet(tmp_path / "empty.parquet")
    done, answers = scored(model, home, tmp_path / "empty.parquet", tmp_path / "out.parquet")
    assert (done.rows, len(answers), done.quarantined_share) == (0, 0, 0.0)
    assert "probability" in answers


def test_a_version_can_be_named(tmp_path: Path) -> None:
    stores = stores_in(tmp_path / "home")
    released(stores, 1, 2)
    change(stores, fallen_back=True, fallback_value=0.25)
    model = small_model()
    source = table(model, tmp_path)
    done = score_table(model.spec, stores, str(source), str(tmp_path / "out.parquet"), version=1)
    assert (done.version, done.release, done.role) == (1, None, None)
    answers = pd.read_parquet(done.output)
    np.testing.assert_allclose(answers["probability"], model.expected(ROWS)[:, 1], rtol=0, atol=1e-12)
    with pytest.raises(BatchRefused, match="has no version 9 with a bundle; registered are 1, 2"):
        score_table(model.spec, stores, str(source), str(tmp_path / "out.parquet"), version=9)


@contextmanager
def refused(kind: type[Exception], said: str, output: Path) -> Iterator[None]:
    with pytest.raises(kind, match=said):
        yield
    assert not output.exists()


def test_what_cannot_be_scored_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model, stores, output = small_model(), stores_in(tmp_path / "home"), tmp_path / "out.parquet"
    source = table(model, tmp_path)

    def score(source: object = source, output: object = output) -> Batch:
        return score_table(model.spec, stores, str(source), str(output))

    with refused(BatchRefused, "no release of 'delay'", output):
        score()
    released(stores, 1)
    with refused(SourceError, "no such table", output):
        score(tmp_path / "nowhere.parquet")
    with refused(BatchRefused, "the name must end in .parquet or .csv", output):
        score(output=tmp_path / "out.xlsx")
    with refused(BatchRefused, "would replace the table", output):
        score(source, source)
    pd.read_parquet(source).drop(columns="temp").to_parquet(tmp_path / "less.parquet")
    with refused(BatchRefused, "less.parquet: columns are missing: 'temp'; found 'flight'", output):
        score(tmp_path / "less.parquet")
    (tmp_path / "torn.parquet").write_bytes(source.read_bytes()[:-100])
    with refused(SourceError, "cannot be read as a table", output):
        score(tmp_path / "torn.parquet")
    (tmp_path / "twice.csv").write_text("temp,temp,seats,holiday,carrier,air port,distance\n1,1,1,true,AA,JFK,3\n")
    with refused(BatchRefused, "more than once: 'temp'", output):
        score(tmp_path / "twice.csv")
    (tmp_path / "ragged.csv").write_text(
        "temp,seats,holiday,carrier,air port,distance\n1,1,true,AA,JFK,3\n1,1,1,1,1,1,1\n"
    )
    with refused(SourceError, "cannot be read as a table", output):
        score(tmp_path / "ragged.csv")
    change(stores, retired="nobody asks")
    with refused(BatchRefused, r"is out of service \(nobody asks\)", output):
        score()


def test_a_model_that_knows_other_features_than_are_declared_is_asked_for_its_own(tmp_path: Path) -> None:
    """The declaration has moved on, the champion has not."""
    stores = stores_in(tmp_path / "home")
    released(stores, 1)
    model = small_model()
    declared = model.spec.model_dump(mode="json", exclude_unset=True)
    declared["features"] = [*declared["features"][1:], {"name": "runway", "type": "category"}]
    spec = type(model.spec).model_validate(declared)
    done = score_table(spec, stores, str(table(model, tmp_path)), str(tmp_path / "out.parquet"))
    answers = pd.read_parquet(done.output)
    np.testing.assert_allclose(answers["probability"], model.expected(ROWS)[:, 1], rtol=0, atol=1e-12)


def test_the_registry_is_asked_only_for_versions_out_of_service(tmp_path: Path) -> None:
    stores = stores_in(tmp_path / "home")
    bundled(stores, small_model(version=2))
    done = score_table(
        small_model().spec, stores, str(table(small_model(), tmp_path)), str(tmp_path / "out.parquet"), version=2
    )
    assert (done.version, done.release) == (2, None)
