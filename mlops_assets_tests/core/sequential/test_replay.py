from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.sequential import (
    ArmSums,
    Batch,
    Differences,
    Errors,
    Limits,
    OddsAlarm,
    PairedMeans,
    Sprt,
    Test,
    ValueMeans,
    Values,
    advance,
    replay,
)

LIMITS = Limits(minimum=50, maximum=5000)
TESTS: list[Test] = [Sprt(LIMITS), OddsAlarm(Limits()), PairedMeans(LIMITS, 0.1, 1.0), ValueMeans(LIMITS, 0.1)]


def batch_for(test: Test, good: int, bad: int) -> Batch:
    """Of 100 samples `bad` are bad for the candidate and `good` for the champion."""
    match test:
        case PairedMeans():
            return Differences(100, float(bad - good), float(bad + good), 1.0)
        case ValueMeans():
            return Values(ArmSums(50, 50.0 - bad, 50.0 - bad), ArmSums(50, 50.0 - good, 50.0 - good), 0.5)
        case _:
            return Errors(100, bad, good)


@pytest.mark.parametrize("test", TESTS, ids=lambda one: type(one).__name__)
@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=30))
def test_looks_that_were_written_down_replay_to_the_same_decision(test: Test, counts: list[tuple[int, int]]) -> None:
    batches = [batch_for(test, *one) for one in counts]
    live = test
    looks = []
    for batch in batches:
        # each look is another process: everything goes through JSON
        live = msgspec.json.decode(msgspec.json.encode(advance(live, batch)), type=Test)
        looks.append(live.look)
    written = msgspec.json.encode(batches)
    replayed = list(replay(test, msgspec.json.decode(written, type=list[Batch])))
    assert [one.look for one in replayed] == looks
    if replayed:
        assert replayed[-1] == live


@pytest.mark.parametrize("test", TESTS, ids=lambda one: type(one).__name__)
def test_every_test_finds_a_bad_candidate(test: Test) -> None:
    *_, last = replay(test, [batch_for(test, 5, 15)] * 40)
    assert (last.verdict, last.samples) == ("worse", 4000)


@pytest.mark.parametrize("test", TESTS, ids=lambda one: type(one).__name__)
def test_no_test_decides_below_its_minimum(test: Test) -> None:
    patient = msgspec.structs.replace(test, limits=msgspec.structs.replace(test.limits, minimum=2000))
    verdicts = [one.verdict for one in replay(patient, [batch_for(test, 0, 40)] * 20)]
    assert verdicts == ["continue"] * 19 + ["worse"]


@pytest.mark.parametrize(
    "test", [one for one in TESTS if not isinstance(one, OddsAlarm)], ids=lambda one: type(one).__name__
)
def test_the_maximum_is_inconclusive_and_stays_so(test: Test) -> None:
    short = msgspec.structs.replace(test, limits=Limits(alpha=1e-6, beta=1e-6, maximum=300))
    verdicts = [one.verdict for one in replay(short, [batch_for(test, 2, 3)] * 3 + [batch_for(test, 0, 40)] * 3)]
    assert verdicts == ["continue", "continue", *["inconclusive"] * 4]


@pytest.mark.parametrize(
    ("test", "batch"),
    [
        (Sprt(LIMITS), Differences(1, 0.0, 0.0, 1.0)),
        (PairedMeans(LIMITS, 0.1, 1.0), Errors(1, 0, 0)),
        (ValueMeans(LIMITS, 0.1), Errors(1, 0, 0)),
    ],
)
def test_a_batch_of_another_kind_is_refused(test: Any, batch: Any) -> None:
    with pytest.raises(TypeError, match="does not take"):
        advance(test, batch)
