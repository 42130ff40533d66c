"""Damaged bytes are named, cost no more than their own records, and are never mistaken for the end."""

import struct
import zlib

import msgspec
import pytest

from mlops_assets.stores.prediction_log import Damage, LogError
from mlops_assets_tests.stores.examples import prediction
from mlops_assets_tests.stores.prediction_log.segments import damaged, unsealed, written


@pytest.mark.parametrize("make", [written, unsealed])
def test_damage_in_the_middle_is_named_and_can_be_skipped_with_a_count(log, make):
    path = make(log.root, *(prediction(n) for n in range(4)))
    first = damaged(path, at_record=1)
    reading = log.records()
    assert next(reading) == prediction(0)
    with pytest.raises(LogError, match=f"{path} is damaged at offset {first} .*skipped"):
        next(reading)
    skipped: list[Damage] = []
    assert list(log.records(skipped=skipped)) == [prediction(0), prediction(2), prediction(3)]
    assert [(damage.path, damage.offset) for damage in skipped] == [(path, first)]
    assert skipped[0].bytes > 100


@pytest.mark.parametrize("field", range(12))
def test_a_damaged_frame_header_costs_that_frame_only(log, field):
    path = written(log.root, *(prediction(n) for n in range(4)))
    content = bytearray(path.read_bytes())
    offset = content.index(b"\xf5\xc0\xff\xc1", 20)
    content[offset + field] ^= 0x80
    path.write_bytes(content)
    skipped: list[Damage] = []
    assert list(log.records(skipped=skipped)) == [prediction(0), prediction(2), prediction(3)]
    assert [damage.offset for damage in skipped] == [offset]


def test_recovery_keeps_damage_in_the_middle_for_the_reader_to_see(log):
    path = unsealed(log.root, *(prediction(n) for n in range(3)))
    damaged(path, at_record=1)
    assert log.recover() == 1
    with pytest.raises(LogError, match="damaged"):
        list(log.records())
    skipped: list[Damage] = []
    assert list(log.records(skipped=skipped)) == [prediction(0), prediction(2)]
    assert len(skipped) == 1


def test_a_sealed_segment_cut_anywhere_is_noticed(log):
    path = written(log.root, *(prediction(n) for n in range(3)))
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(LogError, match="damaged at offset"):
            list(log.records())
        skipped: list[Damage] = []
        read = list(log.records(skipped=skipped))
        assert read == [prediction(n) for n in range(len(read))]
        assert len(skipped) == 1


def test_a_whole_frame_taken_out_of_a_sealed_segment_is_noticed(log):
    path = written(log.root, *(prediction(n) for n in range(3)))
    content = path.read_bytes()
    first = content.index(b"\xf5\xc0\xff\xc1")
    second = content.index(b"\xf5\xc0\xff\xc1", first + 1)
    path.write_bytes(content[:first] + content[second:])
    with pytest.raises(LogError, match="2 records of 3 are there"):
        list(log.records())


def test_another_format_is_refused_and_left_alone(log):
    path = unsealed(log.root, prediction(0))
    content = path.read_bytes()
    path.write_bytes(content[:8] + b"\2\0\0\0" + content[12:])
    for read in (lambda: list(log.records()), log.recover, log.segments):
        with pytest.raises(LogError, match="format 2, this program reads 1"):
            read()
    assert path.exists()


def framed(payload: bytes) -> bytes:
    return b"\xf5\xc0\xff\xc1" + struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


UNKNOWN = framed(msgspec.msgpack.encode({"kind": "from the future"}))
NO_UTF8 = framed(msgspec.msgpack.encode(prediction(9)).replace(b"request-000009", b"\xff" * 14))


@pytest.mark.parametrize("strange", [UNKNOWN, NO_UTF8])
def test_a_record_that_cannot_be_understood_is_damage_not_a_crash(log, strange):
    path = written(log.root, prediction(0), prediction(1), prediction(2))
    content = path.read_bytes()
    second = content.index(b"\xf5\xc0\xff\xc1", 20)
    path.write_bytes(content[:second] + strange + content[second:])
    with pytest.raises(LogError, match="not a record this program knows"):
        list(log.records())
    skipped: list[Damage] = []
    assert len(list(log.records(skipped=skipped))) == 3
    assert [damage.bytes for damage in skipped] == [len(strange)]


def test_recovery_keeps_records_of_a_kind_it_does_not_know(log):
    """A segment holding nothing but a newer program's records was taken for an empty one and deleted."""
    path = unsealed(log.root)
    path.write_bytes(path.read_bytes() + UNKNOWN)
    assert log.recover() == 1
    (segment,) = log.segments()
    assert (segment.records, segment.first_served_at) == (0, None)
    assert UNKNOWN in segment.path.read_bytes()
    with pytest.raises(LogError, match="not a record this program knows"):
        list(log.records())
