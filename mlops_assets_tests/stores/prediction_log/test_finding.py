"""One request is found among all segments, or said to be unreadable."""

import uuid
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from mlops_assets.stores.prediction_log import LogError
from mlops_assets_tests.stores.examples import NOON, label, prediction
from mlops_assets_tests.stores.prediction_log.segments import damaged, unsealed, written


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


def test_the_time_in_the_id_saves_reading_other_segments(log):
    ids = [uuid7(NOON + timedelta(hours=n)) for n in range(6)]
    paths = [
        written(log.root, prediction(id=each, served_at=NOON + timedelta(hours=n)), worker=f"w{n}")
        for n, each in enumerate(ids)
    ]
    for path in (*paths[:2], *paths[3:]):
        damaged(path, at_record=0)
    assert [record.id for record in log.find(ids[2])] == [ids[2]]


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
