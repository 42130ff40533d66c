"""What is appended is what is read: of any kind, while it is written, rotated and sealed."""

import threading
from datetime import UTC, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.records import PredictionRecord
from mlops_assets.stores.prediction_log import LogError, LogWriter, PredictionLog
from mlops_assets_tests.stores.examples import NOON, label, prediction
from mlops_assets_tests.stores.prediction_log.segments import LogWriterFor, written

moments = st.datetimes(timezones=st.just(UTC))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
numbers = st.floats(allow_nan=False)
predictions = st.builds(
    prediction,
    id=texts,
    model=st.sampled_from(["flight_delay", "air_time"]),
    version=st.integers(1, 2**40),
    role=st.sampled_from(["champion", "challenger", "standby", "fallback", "shadow"]),
    event_time=moments,
    served_at=moments,
    entity=st.none() | texts,
    features=st.lists(st.none() | st.booleans() | texts | numbers, max_size=30).map(tuple),
    output=st.lists(numbers, max_size=5).map(tuple),
    latency_ms=numbers,
    status=st.integers(100, 599),
    error=st.none() | texts,
)
labels = st.builds(
    label,
    value=numbers | texts | st.booleans() | st.integers(-(2**63), 2**63 - 1),
    observed_at=moments,
    received_at=moments,
    id=st.none() | texts,
    event_time=st.none() | moments,
    revision=st.integers(0, 99),
)


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.lists(predictions | labels, max_size=5), max_size=5), sealed=st.booleans())
def test_whatever_is_appended_reads_back(tmp_path_factory, batches, sealed):
    root = tmp_path_factory.mktemp("log")
    writer = LogWriter(root, "w")
    for batch in batches:
        writer.append(batch)
    if sealed:
        writer.seal()
    expected = [record for batch in batches for record in batch]
    read = list(PredictionLog(root).records())
    assert read == expected
    assert [type(record) for record in read] == [type(record) for record in expected]
    if expected:
        times = [
            record.served_at if isinstance(record, PredictionRecord) else record.received_at for record in expected
        ]
        (segment,) = PredictionLog(root).segments()
        assert segment.records == len(expected)
        assert (segment.first_served_at, segment.last_served_at) == (min(times), max(times))
    writer.close()


def test_times_are_kept_to_the_microsecond_and_given_in_utc(log):
    new_york = timezone(timedelta(hours=-5))
    written(log.root, prediction(event_time=NOON.astimezone(new_york)))
    (record,) = log.records()
    assert record.event_time == NOON
    assert record.event_time.isoformat() == "2013-03-01T12:00:00.123457+00:00"


def test_a_time_without_a_zone_is_refused_and_nothing_of_its_batch_written(log):
    naive = NOON.replace(tzinfo=None)
    with LogWriterFor(log) as writer:
        for wrong in (
            prediction(event_time=naive),
            prediction(served_at=naive),
            label(observed_at=naive),
            label(received_at=naive),
            label(event_time=naive),
        ):
            with pytest.raises(ValueError, match="without a time zone"):
                writer.append([prediction(1), wrong])
        writer.append([prediction(2)])
    assert list(log.records()) == [prediction(2)]


def test_an_open_segment_is_read_with_what_was_appended_so_far(log):
    with LogWriterFor(log) as writer:
        for n in range(5):
            writer.append([prediction(n)])
            assert list(log.records()) == [prediction(k) for k in range(n + 1)]
            assert list(log.records(include_open=False)) == []
        (segment,) = log.segments()
        assert (segment.sealed, segment.worker, segment.records) == (False, "w", 5)
    assert list(log.records(include_open=False)) == [prediction(n) for n in range(5)]


def test_records_of_one_model(log):
    written(log.root, prediction(0), prediction(1, model="air_time"))
    written(log.root, prediction(2))
    written(log.root, label(3, model="air_time"))
    assert [record.id for record in log.records("air_time")] == ["request-000001", "request-000003"]
    assert list(log.records("unknown")) == []


def test_sealed_segments_are_read_one_by_one_and_model_by_model(log):
    open_writer, writer = LogWriter(log.root, "open"), LogWriter(log.root, "w")
    open_writer.append([prediction(9)])
    writer.append([prediction(1), prediction(2, model="other"), label(1)])
    writer.seal()
    writer.append([prediction(3, model="other")])
    writer.close()
    first, second = log.sealed()
    assert first < second
    assert list(log.segment(first, "flight_delay")) == [prediction(1), label(1)]
    assert list(log.segment(second, "other")) == [prediction(3, model="other")]
    assert list(log.segment(second, "flight_delay")) == []
    (log.root / second).unlink()
    assert list(log.segment(second, "other")) == []
    open_writer.close()


def test_a_segment_sealed_after_the_folder_was_listed_is_still_read(log):
    writer = LogWriterFor(log)
    writer.append([prediction(0)])
    writer.seal()
    writer.append([prediction(1)])
    reading = log.records()
    assert next(reading) == prediction(0)
    writer.seal()
    assert list(reading) == [prediction(1)]
    writer.close()


def test_a_segment_removed_after_the_folder_was_listed_is_passed_over(log):
    written(log.root, prediction(0))
    second = written(log.root, prediction(1))
    reading = log.records()
    next(reading)
    second.unlink()
    assert list(reading) == []


def test_an_empty_or_missing_folder_is_an_empty_log(tmp_path):
    log = PredictionLog(tmp_path / "nowhere")
    assert (list(log.records()), log.segments(), log.find("x"), log.recover()) == ([], (), (), 0)


def test_segments_rotate_by_size(log):
    with LogWriterFor(log, max_segment_bytes=2000, max_segment_age_s=1e9) as writer:
        for n in range(40):
            writer.append([prediction(n)])
            writer.rotate_if_due()
    assert len(log.segments()) > 3
    assert all(segment.sealed and segment.bytes < 4000 for segment in log.segments())
    assert list(log.records()) == [prediction(n) for n in range(40)]


def test_segments_rotate_by_age_but_not_while_empty(log):
    with LogWriterFor(log, max_segment_age_s=0) as writer:
        writer.rotate_if_due()
        writer.append([prediction(0)])
        writer.rotate_if_due()
        writer.rotate_if_due()
        assert [segment.sealed for segment in log.segments()] == [True, False]
    assert [segment.records for segment in log.segments()] == [1]


def test_a_closed_writer_refuses_and_closing_again_does_nothing(log):
    writer = LogWriterFor(log)
    writer.append([])
    writer.close()
    writer.close()
    writer.rotate_if_due()
    with pytest.raises(LogError, match="closed"):
        writer.append([prediction()])
    assert log.segments() == ()


def test_threads_append_while_another_rotates_and_nothing_is_lost(log):
    writer = LogWriterFor(log, max_segment_bytes=1)
    done = threading.Event()

    def append(start: int) -> None:
        for n in range(start, start + 300):
            writer.append([prediction(n)])

    def rotate() -> None:
        while not done.is_set():
            writer.rotate_if_due()

    appending = [threading.Thread(target=append, args=(1000 * k,)) for k in range(3)]
    rotating = threading.Thread(target=rotate)
    for thread in (*appending, rotating):
        thread.start()
    for thread in appending:
        thread.join()
    done.set()
    rotating.join()
    writer.close()
    assert sorted(record.id for record in log.records()) == [
        f"request-{1000 * k + n:06d}" for k in range(3) for n in range(300)
    ]
