"""The breaker as a state machine: when it opens, when it tries again, and that nothing lets it hang between the two."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.rollout import BreakerLimits
from mlops_assets.serving.breaker import Breaker

LIMITS = BreakerLimits(failed=0.5, slow=0.5, latency_ms=10.0, window=20, min_requests=6, open_s=5.0, probes=3)
FAST, SLOW = 0.001, 0.1


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker(limits: BreakerLimits = LIMITS) -> tuple[Breaker, Clock, list[str]]:
    clock, states = Clock(), []
    return Breaker(limits, clock, lambda one: states.append(one.state)), clock, states


def opened() -> tuple[Breaker, Clock, list[str]]:
    one, clock, states = breaker()
    for _ in range(6):
        one.failed("error")
    assert one.state == "open"
    return one, clock, states


class TestClosed:
    def test_it_opens_when_more_than_the_share_of_the_last_requests_fails(self):
        one, _, states = breaker()
        for _ in range(10):
            one.answered(FAST)
        for _ in range(10):
            one.failed("error")
        assert one.is_closed, "half of the last twenty is what is allowed"
        one.failed("not finite")
        assert (one.state, one.trips, states) == ("open", 1, ["open"])
        assert one.reason == "11 of the last 20 requests failed, the last one gave no finite number"

    def test_a_few_requests_tell_nothing(self):
        one, *_ = breaker()
        for _ in range(5):
            one.failed("error")
        assert one.is_closed
        one.failed("error")
        assert not one.is_closed

    def test_what_is_long_ago_is_forgotten(self):
        one, *_ = breaker()
        for _ in range(20):
            for _ in range(4):
                one.failed("error")
            for _ in range(16):
                one.answered(FAST)
        assert one.is_closed

    def test_it_opens_when_too_many_are_slow_though_none_fails(self):
        one, *_ = breaker()
        for _ in range(6):
            one.answered(SLOW)
        assert not one.is_closed
        assert one.reason == "6 of the last 6 requests took longer than 10 ms to score, the last one was too slow"

    def test_without_a_declared_latency_nothing_is_slow(self):
        one, *_ = breaker(BreakerLimits())
        for _ in range(100):
            one.answered(3600.0)
        assert one.is_closed

    @given(st.lists(st.sampled_from(["well", "slow", "error"]), max_size=120))
    def test_it_opens_as_soon_as_the_window_says_so_and_never_before(self, requests: list[str]):
        one, *_ = breaker()
        for number, request in enumerate(requests, 1):
            if request == "error":
                one.failed("error")
            else:
                one.answered(SLOW if request == "slow" else FAST)
            window = requests[max(number - 20, 0) : number]
            beyond = [kind for kind in ("error", "slow") if window.count(kind) > 0.5 * len(window)]
            if number >= 6 and request in beyond:
                assert one.state == "open"
                return
            assert one.is_closed


class TestOpen:
    def test_nobody_is_let_through_until_it_is_time(self):
        one, clock, _ = opened()
        assert not one.admits()
        clock.now += 4.9
        assert not one.admits()
        clock.now += 0.2
        assert one.admits()
        assert one.state == "half-open"

    def test_what_was_asked_before_it_opened_and_ends_later_changes_nothing(self):
        one, clock, states = opened()
        one.failed("error")
        one.answered(FAST)
        one.answered(SLOW)
        assert (one.state, one.trips, states) == ("open", 1, ["open"])
        clock.now += 5
        assert one.admits()


class TestHalfOpen:
    def test_as_many_trials_as_are_declared_close_it(self):
        one, clock, states = opened()
        clock.now += 5
        assert [one.admits() for _ in range(5)] == [True, True, True, False, False]
        for _ in range(3):
            one.answered(FAST)
        assert states == ["open", "half-open", "closed"]
        assert one.admits()

    def test_what_it_did_before_is_forgotten_when_it_closes(self):
        one, clock, _ = opened()
        clock.now += 5
        for _ in range(3):
            assert one.admits()
            one.answered(FAST)
        for _ in range(5):
            one.failed("error")
        assert one.is_closed

    @pytest.mark.parametrize("bad", [lambda one: one.failed("error"), lambda one: one.answered(SLOW)])
    def test_one_trial_that_fails_opens_it_again_for_twice_as_long(self, bad: Callable[[Breaker], None]):
        one, clock, states = opened()
        for wait in (5, 10, 20, 40, 80, 80, 80):
            clock.now += wait - 0.1
            assert not one.admits()
            clock.now += 0.1
            assert one.admits()
            bad(one)
        assert one.trips == 8
        assert states == ["open", *["half-open", "open"] * 7]

    def test_trials_that_come_to_nothing_are_given_out_again(self):
        """Requests whose caller was wrong or left report nothing; the breaker hung half-open for ever."""
        one, clock, _ = opened()
        clock.now += 5
        assert [one.admits() for _ in range(4)] == [True, True, True, False]
        clock.now += 5
        assert one.admits()
        assert one.state == "half-open"


@given(st.lists(st.sampled_from(["ask", "well", "slow", "error", "wait"]), max_size=200))
def test_whatever_happens_a_version_that_does_well_again_is_asked_again(happens: list[str]):
    one, clock, _ = breaker()
    for event in happens:
        if event == "ask":
            one.admits()
        elif event == "well":
            one.answered(FAST)
        elif event == "slow":
            one.answered(SLOW)
        elif event == "error":
            one.failed("error")
        else:
            clock.now += 3
    for _ in range(4):
        clock.now += 100
        for _ in range(3):
            if one.admits():
                one.answered(FAST)
    assert one.is_closed
