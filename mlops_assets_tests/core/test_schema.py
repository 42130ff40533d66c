from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.schema import REASON, Validation, read_times, validate
from mlops_assets.core.spec import ModelSpec
from mlops_assets_tests.core.examples import declaration, make_frame, make_spec

SPEC = make_spec()


def closed(**label: Any) -> ModelSpec:
    """The declaration with every domain closed."""
    features = declaration()["features"]
    for feature in features:
        feature["domain"] = "closed" if feature["name"] != "origin" else "open"
    return make_spec(features=features, label={"column": "late", "delay": "2h", **label})


def with_value(column: str, value: object, row: int = 1) -> pd.DataFrame:
    frame = make_frame(6).astype({column: object})
    frame.at[row, column] = value
    return frame


def reasons(validation: Validation) -> list[str]:
    return validation.quarantine[REASON].tolist()


def test_rows_that_hold_the_contract_are_typed_and_nothing_else_is_kept() -> None:
    validation = validate(SPEC, make_frame(20, gate="A7", index=1.0))
    assert (len(validation.valid), len(validation.quarantine), validation.structural) == (20, 0, ())
    assert validation.failures.empty
    assert {name: str(kind) for name, kind in validation.valid.dtypes.items()} == {
        "temp": "float64",
        "seats": "float64",
        "night": "float64",
        "carrier": "object",
        "origin": "object",
        "flight": "object",
        "at": "datetime64[us, UTC]",
        "late": "object",
    }


def test_a_regression_has_a_label_of_floats() -> None:
    spec = make_spec(task="regression", training={"estimator": "sklearn.linear_model.Ridge", "holdout": "1d"})
    validation = validate(spec, make_frame(4, late=["1", 2, None, np.inf]))
    assert validation.valid["late"].dtype == float
    assert reasons(validation) == ["late: expected a finite number"]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("temp", "warm", "temp: expected a finite number"),
        ("temp", float("inf"), "temp: expected a finite number"),
        ("temp", "1e999", "temp: expected a finite number"),
        ("temp", "NaN", "temp: expected a finite number"),
        ("temp", [1.0], "temp: expected a finite number"),
        ("temp", pd.Timestamp("2024-01-01", tz="UTC"), "temp: expected a finite number"),
        ("seats", 1.5, "seats: expected a whole number"),
        ("seats", 501, "seats: expected at most 500"),
        ("seats", 0, "seats: expected at least 1"),
        ("night", "yes", "night: expected true or false"),
        ("night", 2, "night: expected true or false"),
        ("carrier", 5, "carrier: expected text"),
        ("origin", None, "origin: expected a value"),
        ("origin", 7, "origin: expected text"),
        ("flight", None, "flight: expected a value"),
        ("flight", 12, "flight: expected text"),
        ("at", "2024-01-01T00:00:00", "at: expected a time with its zone"),
        ("at", "soon", "at: expected a time with its zone"),
        ("at", 1_700_000_000, "at: expected a time with its zone"),
        ("at", None, "at: expected a value"),
        ("late", 0.5, "late: expected text or a whole number"),
        ("late", float("inf"), "late: expected text or a whole number"),
    ],
)
def test_a_row_that_breaks_the_contract_goes_to_quarantine_with_its_reason(
    column: str, value: object, reason: str
) -> None:
    """An infinite class once ended the validation with an OverflowError."""
    frame = with_value(column, value)
    validation = validate(SPEC, frame)
    assert validation.structural == ()
    assert len(validation.valid) == 5
    assert reasons(validation)[0].split("; ")[0] == reason
    name, rule = reason.split(": expected ")
    assert [name, rule, 1] in validation.failures[["column", "rule", "rows"]].to_numpy().tolist()


@pytest.mark.parametrize(
    ("column", "value", "held"),
    [
        ("temp", " 12.5 ", 12.5),
        ("temp", True, 1.0),
        ("temp", 1000.0, 1000.0),
        ("seats", "30", 30.0),
        ("night", True, 1.0),
        ("night", np.bool_(False), 0.0),
        ("night", "true", 1.0),
        ("night", 0, 0.0),
        ("carrier", "never seen", "never seen"),
        ("carrier", "", ""),
        ("late", True, 1),
        ("late", np.int64(1), 1),
        ("late", 1.0, 1),
        ("late", "1", "1"),
        ("at", "2023-12-31T19:00:00-05:00", pd.Timestamp("2024-01-01", tz="UTC")),
        ("at", datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), pd.Timestamp("2024-01-01", tz="UTC")),
    ],
)
def test_a_value_that_means_the_same_is_read(column: str, value: object, held: object) -> None:
    validation = validate(SPEC, with_value(column, value))
    assert reasons(validation) == []
    assert validation.valid[column].iloc[1] == held


def test_an_open_domain_is_flagged_and_a_closed_one_quarantined() -> None:
    frame = make_frame(6, temp=[1000.0, 20, 20, 20, 20, None], carrier=["ZZ", "ZZ", "AA", "AA", None, "UA"])
    flagged = validate(SPEC, frame)
    assert (len(flagged.valid), flagged.out_of_domain) == (6, {"temp": 1, "carrier": 2})
    refused = validate(closed(), frame)
    assert (len(refused.valid), refused.out_of_domain) == (4, {})
    assert reasons(refused) == [
        "temp: expected at most 130; carrier: expected one of ['AA', 'UA']",
        "carrier: expected one of ['AA', 'UA']",
    ]
    assert refused.failures.iloc[0].tolist() == ["carrier", "one of ['AA', 'UA']", 2, "ZZ"]
    assert refused.quarantined_share == pytest.approx(2 / 6)


def test_declared_classes_hold_the_label() -> None:
    texts = closed(classes=["no", "yes"])
    assert reasons(validate(texts, make_frame(3, late=["no", "yes", "maybe"]))) == [
        "late: expected one of ['no', 'yes']"
    ]
    validation = validate(texts, make_frame(2, late=[0, 1]))
    assert "expected text, as the declared classes are, found int64" in validation.structural[0]
    assert "expected text" in validate(texts, make_frame(2, late=[True, False])).structural[0]


def test_declared_whole_classes_are_read_from_text() -> None:
    """A table that mixes numbers and text is kept as text: one strange label once made all of them strange."""
    validation = validate(closed(classes=[0, 1]), make_frame(5, late=["0", "1.0", 1, "x", None]))
    assert validation.valid["late"].tolist() == [0, 1, 1, None]
    assert reasons(validation) == ["late: expected one of [0, 1]"]


@pytest.mark.parametrize("name", ["temp", "origin", "late", "at", "flight"])
def test_a_missing_or_renamed_column_is_structural(name: str) -> None:
    validation = validate(SPEC, make_frame(4).rename(columns={name: "other"}))
    assert f"column '{name}' is missing; found" in validation.structural[0]
    assert "'other'" in validation.structural[0]
    assert (len(validation.valid), len(validation.quarantine), validation.quarantined_share) == (0, 4, 1.0)
    assert set(SPEC.feature_names) <= set(validation.valid.columns)


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("temp", ["warm", "cold"], "a finite number, found object such as 'warm'"),
        ("temp", pd.to_datetime(["2024-01-01", "2024-01-02"]), "a finite number, found datetime64[ns]"),
        ("temp", pd.to_timedelta(["1h", "2h"]), "a finite number, found timedelta64[ns]"),
        ("carrier", [1, 2], "text, found int64"),
        ("at", pd.to_datetime(["2024-01-01", "2024-01-02"]), "a time with its zone, found datetime64[ns]"),
        ("at", [1, 2], "a time with its zone, found int64"),
    ],
)
def test_a_column_of_the_wrong_type_is_structural(column: str, values: Any, expected: str) -> None:
    """Times without a zone, and times where a number should be, were once taken as nanoseconds."""
    validation = validate(SPEC, make_frame(2, **{column: values}))
    assert [problem for problem in validation.structural if f"column {column!r} is of the wrong type" in problem]
    assert expected in validation.structural[0]
    assert len(validation.quarantine) == 2


def test_a_missing_and_a_wrong_column_are_both_reported() -> None:
    validation = validate(SPEC, make_frame(2, temp=["x", "y"]).drop(columns="seats"))
    assert len(validation.structural) == 2
    assert set(validation.failures["column"]) == {"temp", "seats"}


def test_a_column_that_is_there_twice_is_structural() -> None:
    frame = make_frame(3)
    validation = validate(SPEC, pd.concat([frame, frame[["temp"]]], axis="columns"))
    assert validation.structural == ("column 'temp' is there 2 times",)
    assert len(validation.quarantine) == 3


@pytest.mark.parametrize("frame", [make_frame(5).iloc[:0], pd.DataFrame({name: [] for name in make_frame(1)})])
def test_no_rows_are_no_mistake(frame: pd.DataFrame) -> None:
    validation = validate(SPEC, frame)
    assert (validation.rows, validation.structural, validation.quarantined_share) == (0, (), 0.0)


def test_features_without_any_value_are_valid_where_they_may_be_missing() -> None:
    validation = validate(SPEC, make_frame(3, temp=None, carrier=None, night=np.nan, late=None))
    assert (len(validation.valid), validation.structural) == (3, ())
    assert validation.valid[["temp", "carrier", "night", "late"]].isna().all().all()


def test_pandas_own_types_are_read() -> None:
    frame = make_frame(3).assign(
        temp=pd.array([1, None, 3], dtype="Int64"),
        night=pd.array([True, None, False], dtype="boolean"),
        carrier=pd.Categorical(["AA", None, "UA"]),
        origin=pd.array(["EWR", "JFK", "LGA"], dtype="string"),
    )
    validation = validate(SPEC, frame)
    assert reasons(validation) == []
    assert validation.valid["night"].isna().tolist() == [False, True, False]
    assert validation.valid["carrier"].tolist() == ["AA", None, "UA"]


def test_the_first_of_two_rows_of_one_entity_and_time_stays() -> None:
    frame = make_frame(5)
    frame.loc[[2, 4], ["flight", "at"]] = frame.loc[[0, 0], ["flight", "at"]].to_numpy()
    frame.loc[3, "flight"] = "F1"
    validation = validate(SPEC, frame)
    assert validation.valid["flight"].tolist() == ["F0", "F1", "F1"]
    assert reasons(validation) == ["flight: expected the only row of its entity and event time"] * 2
    assert validation.failures.to_numpy().tolist() == [["flight", "the only row of its entity and event time", 2, "F0"]]


def test_a_bad_row_displaces_no_good_one_of_its_entity_and_time() -> None:
    """The first row went to quarantine for its own fault, and took the good second one with it as its duplicate."""
    frame = make_frame(4)
    frame[["flight", "at"]] = frame.loc[[0, 0, 0, 0], ["flight", "at"]].to_numpy()
    frame["temp"] = [float("inf"), 20.0, 30.0, float("-inf")]
    validation = validate(SPEC, frame)
    assert validation.valid["temp"].tolist() == [20.0]
    assert reasons(validation) == [
        "temp: expected a finite number",
        "flight: expected the only row of its entity and event time",
        "temp: expected a finite number",
    ]


def test_the_quarantine_shows_the_rows_as_they_came() -> None:
    frame = with_value("temp", "warm").assign(extra=[[1], {}, None, 1, "x", 2.5])
    frame.index = [3, 3, 3, 3, 3, 3]
    row = validate(SPEC, frame).quarantine.iloc[0]
    assert (row["temp"], row["flight"], row["extra"]) == ("warm", "F1", "{}")


CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 600),
    st.floats(),
    st.sampled_from(["AA", "UA", "", "1", "0", "true", "2024-01-01T00:00:00Z", "2024-01-01", "warm"]),
    st.datetimes(timezones=st.just(UTC)),
)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(make_frame(1), CELLS)), max_size=8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_row_is_valid_or_quarantined_and_a_valid_frame_is_valid_again(
    rows: list[dict[str, Any]], is_closed: bool
) -> None:
    spec = closed() if is_closed else SPEC
    good = make_frame(4).astype(object)
    frame = pd.concat([good, pd.DataFrame(rows, columns=list(good.columns), dtype=object)], ignore_index=True)
    validation = validate(spec, frame)
    assert validation.rows == len(frame)
    assert validation.quarantine.get(REASON, pd.Series(dtype=object)).map(bool).all()
    again = validate(spec, validation.valid)
    assert len(again.quarantine) == 0
    pd.testing.assert_frame_equal(again.valid, validation.valid)


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-01T05:00:00Z",
        "2024-01-01T00:00:00-05:00",
        "2024-01-01 00:00:00-0500",
        "2024-01-01 05:00:00+00",
        "2024-01-01T05:00:00.000000Z",
    ],
)
def test_a_time_is_read_with_its_zone(text: str) -> None:
    assert read_times(pd.Series([text])).tolist() == [pd.Timestamp("2024-01-01T05:00:00Z")]


def test_a_time_without_zone_is_no_time() -> None:
    strange = ["2024-01-01T05:00:00", "2024-01-01", "05:00", "", None, 5, datetime(2024, 1, 1), "2024-13-01T00:00:00Z"]  # noqa: DTZ001
    assert read_times(pd.Series(strange, dtype=object)).isna().all()


def test_times_of_several_zones_in_one_column_are_read() -> None:
    """Source rows and logged rows meet in one column: text, and times of other zones."""
    column = pd.Series(
        ["2024-01-01T05:00:00Z", pd.Timestamp("2024-01-01T00:00:00-05:00"), datetime(2024, 1, 1, 5, tzinfo=UTC)]
    )
    assert read_times(column).nunique() == 1
    assert str(read_times(column).dtype) == "datetime64[us, UTC]"
