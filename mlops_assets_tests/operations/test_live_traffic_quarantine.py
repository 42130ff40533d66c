"""What fits nowhere is kept aside with its bytes, and stops nothing else."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from mlops_assets.operations.live_traffic import (
    compact,
    ingest,
    live_windows,
    quarantined_since,
    stale_windows,
)
from mlops_assets.stores.prediction_log import LogError
from mlops_assets_tests.core.examples import LIVE_FROM
from mlops_assets_tests.operations.traffic_examples import DAY, HOUR, Traffic, window


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    return Traffic(tmp_path)


def test_records_of_no_window_are_kept_aside_with_their_bytes(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path, monitoring={"until": "2024-03-05T00:00:00Z"})
    early = traffic.prediction(1, -1)
    late = traffic.prediction(2, 96)
    ahead = traffic.prediction(3, event_time=LIVE_FROM + 40 * HOUR)
    fine = traffic.prediction(4, 95, event_time=LIVE_FROM + 95.9 * HOUR)
    lost = traffic.label_by_event(5, event_time=LIVE_FROM - DAY)
    nobody = traffic.label(6, id=None)
    traffic.segment(early, late, ahead, fine, lost, nobody)
    assert ingest(traffic.stores, [traffic.spec])["delay"].quarantined == 5
    traffic.take()
    kept = quarantined_since(traffic.spec, traffic.stores)
    assert [msgspec.msgpack.decode(one, type=type(early) | type(lost)) for one in kept["content"]] == [
        early,
        late,
        ahead,
        nobody,
        lost,
    ]
    assert kept["reason"].tolist() == [
        "its event time lies before the first window 2024-03-01",
        "its event time lies after the end of the history, 2024-03-05 00:00:00+00:00",
        "its event time lies more than one window ahead of the clock",
        "names neither a prediction nor an entity and its event time",
        "its event time lies before the first window 2024-03-01",
    ]
    assert list(live_windows(traffic.spec, traffic.stores)) == [window(3)]


def test_a_row_dated_2099_makes_no_window(traffic: Traffic) -> None:
    far = datetime(2099, 1, 1, tzinfo=UTC)
    farthest = datetime(9999, 12, 31, tzinfo=UTC)
    traffic.segment(
        traffic.prediction(1),
        traffic.prediction(2, event_time=far),
        traffic.prediction(3, event_time=far, served_at=far),
        traffic.prediction(4, event_time=farthest, served_at=farthest),
        traffic.prediction(5, event_time=datetime(1, 1, 2, tzinfo=UTC)),
    )
    assert list(traffic.take()) == [window(0)]
    assert len(quarantined_since(traffic.spec, traffic.stores)) == 4


def test_damaged_bytes_are_kept_and_the_rest_is_read(traffic: Traffic) -> None:
    path = traffic.segment(*[traffic.prediction(number) for number in range(1, 4)])
    content = bytearray(path.read_bytes())
    middle = content.index(b"r2")
    content[middle] ^= 0xFF
    path.write_bytes(content)
    traffic.take()
    assert traffic.read()["id"].tolist() == ["r1", "r3"]
    kept = quarantined_since(traffic.spec, traffic.stores)
    assert kept["segment"].tolist() == [path.name]
    [damaged], [offset] = kept["content"], kept["offset"]
    assert damaged == bytes(content[offset : offset + len(damaged)])
    assert content[middle : middle + 2] in damaged
    assert kept["at"].notna().all()


def test_features_that_no_contract_names_are_kept_aside(traffic: Traffic) -> None:
    traffic.segment(
        traffic.prediction(1, bundle="sha256:" + "0" * 64),
        traffic.prediction(2, features=(1.0, 2.0)),
        traffic.prediction(3, features=("warm", 1.0, True, None, "EWR")),
        traffic.prediction(4, features=(1.0, 1.0, True, None, 7.0)),
        traffic.prediction(5),
    )
    traffic.take()
    assert traffic.read()["id"].tolist() == ["r5"]
    assert dict(zip(*quarantined_since(traffic.spec, traffic.stores)[["id", "reason"]].to_numpy().T, strict=True)) == {
        "r1": f"bundle sha256:{'0' * 64} is not stored, so its features have no names",
        "r2": "2 features where the bundle has 5",
        "r3": "feature 'temp': 'warm' is no number",
        "r4": "feature 'origin': 7.0 is no category",
    }


def test_a_segment_of_another_format_stops_no_other(traffic: Traffic) -> None:
    path = traffic.segment(traffic.prediction(1))
    content = bytearray(path.read_bytes())
    content[8] = 99
    path.write_bytes(content)
    traffic.segment(traffic.prediction(2))
    with pytest.raises(LogError, match="has format 99"):
        ingest(traffic.stores, [traffic.spec])
    for key in stale_windows(traffic.spec, traffic.stores):
        compact(traffic.spec, traffic.stores, key)
    assert traffic.read()["id"].tolist() == ["r2"]
