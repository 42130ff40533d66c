"""One request is found among all segments, or said to be unreadable."""

import uuid
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryFile

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.records import PredictionRecord
from mlops_assets.stores import log_search
from mlops_assets.stores.log_frames import beginning, decode, frame_at, framed_batch
from mlops_assets.stores.log_search import Limits, Search
from mlops_assets.stores.prediction_log import LogError, PredictionLog
from mlops_assets_tests.stores.examples import NOON, label, prediction
from mlops_assets_tests.stores.prediction_log.segments import begun_at, unsealed, written

MIDNIGHT = datetime(2013, 3, 1, tzinfo=UTC)


def test_all_roles_of_a_request_are_found_across_workers_and_segments(log):
    wanted = prediction(5)
    shadow = msgspec.structs.replace(
        wanted, role="challenger", version=13, served_at=wanted.served_at + timedelta(seconds=1)
    )
    written(log.root, prediction(4), wanted, prediction(6), label(5))
    written(log.root, prediction(7), shadow)
    unsealed(log.root, prediction(8), worker="v")
    assert log.find(wanted.id) == (wanted, shadow)
    assert log.find(prediction(8).id) == (prediction(8),)
    assert log.find("request") == ()
    assert log.find("ffffffff-ffff-7fff-bfff-ffffffffffff") == (), "a time that no calendar holds"
    assert log.find("") == ()


def uuid7(moment: datetime) -> str:
    milliseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return str(uuid.UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | 12345))


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> PredictionLog:
    """A day in segments of five minutes, by two workers that begin theirs at other times, and by one that died at noon."""
    root = tmp_path_factory.mktemp("day")
    for n in range(288):
        begun = MIDNIGHT + timedelta(minutes=5 * n)
        at = begun + timedelta(minutes=3)
        begun_at(root, begun, prediction(id=uuid7(at), served_at=at), prediction(id=f"a-{n}", served_at=at), worker="a")
        begun += timedelta(minutes=2.5)
        begun_at(root, begun, prediction(id=f"b-{n}", served_at=begun), worker="b")
        if n < 144:
            begun_at(root, begun, prediction(id=f"c-{n}", served_at=begun), worker="c")
    return PredictionLog(root)


def found(searched: Search) -> list[str]:
    return [record.id for record in searched.records]


@pytest.mark.parametrize("n", [0, 100, 143, 200, 287])
def test_the_time_in_the_id_saves_opening_other_segments(day: PredictionLog, n: int):
    wanted = uuid7(MIDNIGHT + timedelta(minutes=5 * n + 3))
    searched = day.search(wanted, Limits())
    assert (found(searched), searched.back_to) == ([wanted], None)
    assert searched.opened <= 12, "of 720: what three workers wrote to within five minutes of it"


def test_an_id_of_any_form_is_looked_for_from_the_newest_back_as_far_as_is_allowed(day: PredictionLog):
    newest = day.search("a-287", Limits())
    assert (found(newest), newest.opened <= 12) == (["a-287"], True)

    nobodys = day.search("nobody's", Limits(segments=50))
    assert (nobodys.records, nobodys.opened, nobodys.out_of_time) == ((), 50, False)
    assert nobodys.back_to == MIDNIGHT + timedelta(hours=24) - 25 * timedelta(minutes=5)
    assert found(day.search("a-263", Limits(segments=50))) == ["a-263"]
    assert found(day.search("a-262", Limits(segments=50))) == []
    assert day.search("nobody's", Limits()) == Search(opened=720)


def test_the_limit_holds_for_an_id_with_a_time_in_which_it_is_not(day: PredictionLog):
    searched = day.search(uuid7(MIDNIGHT + timedelta(hours=7)), Limits(segments=40))
    assert (searched.records, searched.opened) == ((), 40)
    assert searched.back_to is not None
    assert searched.back_to > MIDNIGHT + timedelta(hours=22)
    assert day.search(uuid7(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)), Limits(segments=3)).opened == 3


def test_bytes_and_time_are_limits_too(day: PredictionLog):
    size = day.segments()[-1].bytes
    assert 3 <= day.search("nobody's", Limits(bytes=3 * size)).opened <= 5
    late = day.search("nobody's", Limits(seconds=-1))
    assert (late.opened, late.out_of_time, late.back_to is None) == (0, True, False)


def test_so_many_records_as_are_enough(log: PredictionLog):
    begun_at(log.root, MIDNIGHT, *(prediction(id="again", version=n) for n in range(50)))
    assert len(log.search("again", Limits(records=7)).records) == 7
    assert len(log.search("again", Limits()).records) == 50


def test_a_large_segment_is_read_in_stretches(log: PredictionLog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log_search, "_STRETCH", 100)
    begun_at(log.root, MIDNIGHT, *(prediction(n) for n in range(100)))
    for n in range(100):
        assert log.find(prediction(n).id) == (prediction(n),)
    assert log.find("request-00000") == ()


@pytest.mark.parametrize("features", [0, 5])
@given(record_id=st.text(min_size=1, max_size=200))
@settings(max_examples=50)
def test_what_a_record_begins_with_is_where_it_is_looked_for(features: int, record_id: str):
    """Records of few fields and of many, whose heads differ; a label of the same id is none."""
    record = prediction(id=record_id, features=(1.0,) * features)
    record = record if features else PredictionRecord(record_id, "m", 1, "b", 1, "r", "champion", NOON, NOON)
    several = framed_batch([label(id=record_id), record])
    at = several.find(beginning(record_id))
    with TemporaryFile() as file:
        file.write(several)
        file.flush()
        offset, size, payload = frame_at(file.fileno(), at)
    assert several[offset : offset + size] == framed_batch([record])
    assert payload is not None
    assert decode(payload) == record
    assert several.find(beginning(record_id), at + 1) < 0


def test_a_folder_that_cannot_be_read_is_said_to_be_so(log: PredictionLog):
    (log.root / "20130301T000000000000Z-w.sealed").mkdir()
    with pytest.raises(LogError, match="cannot be searched"):
        log.find("x")


def test_a_callers_own_uuid7_from_another_time_is_found_all_the_same(log):
    own = uuid7(NOON - timedelta(days=400))
    written(log.root, prediction(id=own))
    written(log.root, prediction(1))
    assert [record.id for record in log.find(own)] == [own]


def test_a_prediction_in_a_damaged_stretch_is_not_simply_missing(log):
    path = written(log.root, prediction(0), prediction(1))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"EWR")] ^= 1
    path.write_bytes(content)
    assert log.find(prediction(0).id) == (prediction(0),)
    with pytest.raises(LogError, match=r"request-000001 cannot be read: .*damaged"):
        log.find(prediction(1).id)
