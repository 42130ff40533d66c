from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.history import hash_frame, known_at
from mlops_assets_tests.core.examples import START, make_frame, make_spec

HOUR = timedelta(hours=1)
SPEC = make_spec()
OBSERVED = make_spec(label={"column": "late", "delay": "2h", "observed_at": "landed"})


def known(frame: pd.DataFrame, as_of: datetime, until: datetime | None = None, spec=SPEC) -> pd.DataFrame:
    return known_at(spec, frame, as_of, as_of if until is None else until)


def test_an_event_at_the_very_moment_has_not_happened_yet() -> None:
    assert known(make_frame(10), START + 5 * HOUR)["flight"].tolist() == ["F0", "F1", "F2", "F3", "F4"]
    assert len(known(make_frame(10), START + 9 * HOUR, until=START + 3 * HOUR)) == 3


def test_a_label_is_known_from_the_moment_it_was_observed() -> None:
    """Events at 0, 1, 2, 3 o'clock, their labels two hours later: at 4 o'clock the first three are known."""
    labels = known(make_frame(10), START + 4 * HOUR)["late"]
    assert labels.notna().tolist() == [True, True, True, False]
    assert labels.iloc[:3].tolist() == [0, 1, 0]


def test_the_column_that_says_when_goes_before_the_delay() -> None:
    landed = [START + 1 * HOUR, START + 9 * HOUR, None, "soon"]
    frame = make_frame(4, landed=pd.Series(landed, dtype=object))
    rows = known(frame, START + 4 * HOUR, spec=OBSERVED)
    assert rows["late"].notna().tolist() == [True, False, True, False]


def test_when_a_label_will_be_observed_is_not_known_either() -> None:
    """The time of a landing that lies ahead tells how long the flight will take."""
    frame = make_frame(4, landed=pd.Series([START + n * HOUR for n in (1, 9, 4, 5)]))
    assert known(frame, START + 4 * HOUR, spec=OBSERVED)["landed"].notna().tolist() == [True, False, True, False]


def test_an_unreadable_time_stays_for_the_validation_to_see() -> None:
    frame = make_frame(3).astype({"at": object})
    frame.at[1, "at"] = "yesterday"
    assert known(frame, START + HOUR)["flight"].tolist() == ["F0", "F1"]


def test_frames_without_event_time_or_label_are_left_to_the_validation() -> None:
    frame = make_frame(3)
    assert len(known(frame.drop(columns="at"), START)) == 3
    assert "late" not in known(frame.drop(columns="late"), START + 9 * HOUR)
    assert len(known(frame.iloc[:0], START)) == 0


def test_a_loader_may_give_any_index() -> None:
    """Rows that share an index label, as after a concat, once ended in an error of alignment."""
    frame = pd.concat([make_frame(3), make_frame(3, seed=1)])
    rows = known(frame, START + 2 * HOUR)
    assert rows.index.tolist() == [0, 1, 2, 3]


def test_nothing_of_the_given_frame_is_changed() -> None:
    frame = make_frame(6)
    before = frame.copy()
    known(frame, START + 3 * HOUR)
    pd.testing.assert_frame_equal(frame, before)


@given(st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_the_past_is_the_same_whatever_came_later(hours: int, more: int) -> None:
    """A replay that reads a finished year sees what was seen at the time."""
    as_of = START + hours * HOUR
    then = known(make_frame(40).iloc[: hours + more], as_of)
    later = known(make_frame(40), as_of).iloc[: len(then)]
    assert len(then) == hours
    assert hash_frame(then) == hash_frame(later)


def test_the_hash_knows_values_names_types_and_order() -> None:
    frame = make_frame(5)
    others = [
        frame.rename(columns={"temp": "t"}),
        frame.astype({"temp": "float32"}),
        frame.iloc[::-1],
        frame.iloc[:4],
        frame[list(frame)[::-1]],
        frame.assign(temp=frame["temp"].where(frame.index != 2, 0.0)),
        frame.assign(carrier=frame["carrier"].where(frame.index != 2, "")),
        frame.assign(at=frame["at"] + pd.Timedelta("1us")),
    ]
    assert len({hash_frame(other) for other in [frame, *others]}) == len(others) + 1


def test_the_hash_does_not_know_the_index() -> None:
    frame = make_frame(5)
    assert hash_frame(frame.set_axis([9, 9, 9, 1, 2])) == hash_frame(frame)
    assert hash_frame(frame).startswith("sha256:")


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, None, np.nan, True, 1.5])
def test_any_value_has_a_hash(value: object) -> None:
    frame = pd.DataFrame({"x": pd.Series(["a", value, "b"], dtype=object)})
    assert hash_frame(frame) == hash_frame(frame.copy())
    assert hash_frame(frame) != hash_frame(pd.DataFrame({"x": pd.Series(["a", "b", value], dtype=object)}))


def test_the_hash_is_the_same_on_every_machine() -> None:
    """A change of it would make every data set look new: it may only be changed on purpose."""
    frame = pd.DataFrame({"x": [1.5, np.nan], "c": ["a", None], "at": pd.to_datetime(["2024-01-01", None], utc=True)})
    assert hash_frame(frame) == "sha256:644cfd94edbb5123c100c81ffb178e382147fdc253cfe7b3628e9d1cd96846c0"
