from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mlops_assets.core.evaluation import Evaluation, Interval, SliceMetrics
from mlops_assets.core.schema import read_times
from mlops_assets.stores.lake import Lake, encode_table

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["folder", "memory"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake") if request.param == "folder" else f"memory://{tmp_path}")


def round_trip(lake: Lake, frame: pd.DataFrame) -> pd.DataFrame:
    lake.write_table("delay", "raw_data", frame)
    return lake.read_table("delay", "raw_data")


def column(lake: Lake, values: Any) -> list[Any]:
    return round_trip(lake, pd.DataFrame({"x": pd.Series(values, dtype=object)}))["x"].tolist()


def test_a_table_reads_back_with_what_it_carries(lake: Lake) -> None:
    frame = pd.DataFrame(
        {
            "text": ["a", None],
            "number": [1.5, np.nan],
            "whole": [1, 2],
            "flag": [True, False],
            "at": pd.Series([NOON, None], dtype="datetime64[us, UTC]"),
            "nothing": pd.Series([None, None], dtype=object),
        }
    )
    frame.attrs = {"as_of": NOON.isoformat(), "data_hash": "sha256:00"}
    read = round_trip(lake, frame)
    pd.testing.assert_frame_equal(read, frame)
    assert read.attrs == frame.attrs


def test_writing_changes_nothing_of_the_frame(lake: Lake) -> None:
    frame = pd.DataFrame({0: pd.Series([1, "x"], dtype=object)}, index=[5, 5])
    frame.attrs = {"a": 1}
    before = frame.copy()
    assert list(round_trip(lake, frame)) == ["0"]
    pd.testing.assert_frame_equal(frame, before)
    assert frame.attrs == {"a": 1}


def test_an_empty_table_keeps_its_columns(lake: Lake) -> None:
    empty = pd.DataFrame({"x": pd.Series([], dtype=float), "y": pd.Series([], dtype=object)})
    pd.testing.assert_frame_equal(round_trip(lake, empty), empty)


def test_columns_of_mixed_types_become_text(lake: Lake) -> None:
    assert column(lake, [1, "x", None, 2.5]) == ["1", "x", None, "2.5"]
    assert column(lake, [np.int64(1), "1"]) == ["1", "1"]
    assert column(lake, [True, np.bool_(False), "x"]) == ["True", "False", "x"]
    assert column(lake, [{"a": [1]}, "x"]) == ['{"a": [1]}', "x"]


def test_times_among_text_stay_times(lake: Lake) -> None:
    """They were once put between quotation marks: a source with times as text lost every logged row to the quarantine."""
    times = column(lake, ["2024-01-01T12:00:00Z", pd.Timestamp(NOON), NOON, None])
    assert read_times(pd.Series(times)).tolist() == [pd.Timestamp(NOON)] * 3 + [pd.NaT]


def test_true_and_false_among_numbers_become_numbers(lake: Lake) -> None:
    """A label that the source holds as true and false and the log as 1 and 0 once came out as four classes of text."""
    values = column(lake, [True, 0, np.float64(1.0), np.bool_(False), None])
    assert values[:4] == [1.0, 0.0, 1.0, 0.0]
    assert np.isnan(values[4])


def test_times_of_several_zones_in_one_column_stay_the_same_moments(lake: Lake) -> None:
    times = column(lake, [pd.Timestamp("2024-01-01T07:00:00-05:00"), pd.Timestamp(NOON), None])
    assert read_times(pd.Series(times)).dropna().tolist() == [pd.Timestamp(NOON)] * 2


def test_names_become_text_and_must_differ(lake: Lake) -> None:
    assert list(round_trip(lake, pd.DataFrame({1: [1], "a": [2], 2.5: [3]}))) == ["1", "a", "2.5"]
    with pytest.raises(ValueError, match="delay/raw_data: columns '1' are there twice"):
        round_trip(lake, pd.DataFrame([[1, 2]], columns=[1, "1"]))


def test_the_latest_replaces_what_was_there(lake: Lake) -> None:
    round_trip(lake, pd.DataFrame({"x": [1, 2, 3]}))
    assert round_trip(lake, pd.DataFrame({"y": ["a"]})).to_dict("list") == {"y": ["a"]}


def test_a_document_reads_back_with_values_that_json_lacks(lake: Lake) -> None:
    """A slice with one class has no ROC AUC: the NaN was once written as null, and the evaluation could not be read again."""
    evaluation = Evaluation(
        model="delay",
        version=3,
        rows=9,
        metrics={"roc_auc": Interval(float("nan"), float("-inf"), 1.0)},
        baseline={"brier": 0.1},
        slices=(SliceMetrics("origin", "Zürich", 9, {"roc_auc": float("nan")}),),
        comparisons=(),
        compared_with="no champion",
        latency_ms=0.5,
        gates=(),
    )
    lake.write_document("delay", "evaluation", evaluation)
    read = lake.read_document("delay", "evaluation", Evaluation)
    assert repr(read) == repr(evaluation)


class Document(msgspec.Struct):
    at: datetime
    value: float | str | int | None
    parts: tuple[int, ...] = ()
    by_number: dict[int, str] = {}


@pytest.mark.parametrize("value", [0.1 + 0.2, 5e-324, 1, "1", None])
def test_a_document_keeps_types_and_exact_numbers(lake: Lake, value: Any) -> None:
    document = Document(NOON, value, (1, 2), {1: "a"})
    lake.write_document("delay", "plan", document)
    read = lake.read_document("delay", "plan", Document)
    assert read == document
    assert type(read.value) is type(value)


def test_what_is_not_there_says_what_to_run(lake: Lake) -> None:
    assert not lake.has("delay", "raw_data")
    with pytest.raises(FileNotFoundError, match="materialise delay/raw_data first"):
        lake.read_table("delay", "raw_data")
    with pytest.raises(FileNotFoundError, match="materialise delay/evaluation first"):
        lake.read_document("delay", "evaluation", Evaluation)
    lake.write_table("delay", "raw_data", pd.DataFrame({"x": [1]}))
    lake.write_document("delay", "evaluation", {})
    assert lake.has("delay", "raw_data")
    assert lake.has("delay", "evaluation")
    assert not lake.has("other", "raw_data")


@pytest.mark.parametrize("content", [b"", b"{", b'{"at": "\xff"}', b"[]"])
def test_what_is_damaged_names_its_file_and_what_to_run(tmp_path: Path, content: bytes) -> None:
    """The errors of the parsers named neither."""
    lake = Lake(str(tmp_path))
    document = Path(lake.write_document("delay", "plan", Document(NOON, 1)))
    table = Path(lake.write_table("delay", "raw_data", pd.DataFrame({"x": [1]})))
    document.write_bytes(content)
    table.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{document} cannot be read .*materialise delay/plan again"):
        lake.read_document("delay", "plan", Document)
    with pytest.raises(ValueError, match=rf"{table} cannot be read .*materialise delay/raw_data again"):
        lake.read_table("delay", "raw_data")


def test_a_write_that_fails_leaves_the_old_table_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path))
    path = Path(lake.write_table("delay", "raw_data", pd.DataFrame({"x": [1]})))

    def full(descriptor: int) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            lake.write_table("delay", "raw_data", pd.DataFrame({"x": [2]}))
    assert lake.read_table("delay", "raw_data")["x"].tolist() == [1]
    assert [file.name for file in path.parent.iterdir()] == ["raw_data.parquet"]


TABLE = pa.table({"id": ["a", "b"], "x": [1.5, None]})


def test_an_arrow_table_reads_back_with_its_attrs_either_way(lake: Lake) -> None:
    path = lake.write_arrow("delay", "live/2024-01-01", TABLE, {"rows": 2})
    assert path == lake.table_path("delay", "live/2024-01-01")
    assert lake.read_arrow("delay", "live/2024-01-01") == TABLE
    assert lake.read_arrow("delay", "live/2024-01-01", ["x"]).column_names == ["x"]
    assert lake.read_attrs("delay", "live/2024-01-01") == {"rows": 2}
    assert lake.read_table("delay", "live/2024-01-01").attrs == {"rows": 2}


def test_the_same_table_is_the_same_bytes(lake: Lake) -> None:
    assert encode_table(TABLE) == encode_table(TABLE.slice(0))
    lake.write_bytes("delay", "part", encode_table(TABLE))
    assert lake.read_arrow("delay", "part") == TABLE
    assert lake.read_attrs("delay", "part") == {}


def test_tables_of_a_folder_are_listed_by_name_without_those_below(lake: Lake) -> None:
    assert lake.tables("delay", "live") == ()
    for name in ("b", "a", "deeper/c"):
        lake.write_arrow("delay", f"live/{name}", TABLE)
    lake.write_document("delay", "live/d", {})
    assert lake.tables("delay", "live") == ("a", "b")


def test_a_stamp_changes_when_its_table_is_written_again(lake: Lake) -> None:
    for name in ("a", "b"):
        lake.write_arrow("delay", f"live/{name}", TABLE)
    before = lake.stamps("delay", "live")
    assert lake.stamps("delay", "live") == before
    lake.write_arrow("delay", "live/a", TABLE)
    after = lake.stamps("delay", "live")
    assert after["a"] != before["a"]
    assert after["b"] == before["b"]


def test_a_removed_table_is_gone_and_removing_it_again_is_no_error(lake: Lake) -> None:
    lake.write_arrow("delay", "live/a", TABLE)
    for _ in range(2):
        lake.remove_table("delay", "live/a")
        assert lake.tables("delay", "live") == ()
    with pytest.raises(FileNotFoundError, match="materialise delay/live/a first"):
        lake.read_arrow("delay", "live/a")
