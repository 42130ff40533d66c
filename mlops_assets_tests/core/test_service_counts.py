from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.service_counts import LATENCY_BOUNDS_MS, ServiceCounter, ServiceCounts

REQUESTS = st.lists(
    st.tuples(st.sampled_from([200, 200, 200, 400, 404, 410, 413, 422, 429, 500, 503]), st.floats(0, 200)), max_size=60
)


def counted(requests: list[tuple[int, float]]) -> ServiceCounts:
    counter = ServiceCounter()
    for status, seconds in requests:
        counter.observe(status, seconds)
    return counter.counts()


def test_bounds_grow() -> None:
    assert list(LATENCY_BOUNDS_MS) == sorted(set(LATENCY_BOUNDS_MS))
    assert LATENCY_BOUNDS_MS[0] == 1


@given(REQUESTS)
def test_each_request_counts_once_and_what_the_caller_got_wrong_not_at_all(requests: list[tuple[int, float]]) -> None:
    counts = counted(requests)
    codes = [status for status, _ in requests]
    assert counts.answered == codes.count(200)
    assert counts.failed == codes.count(500)
    assert counts.shed == codes.count(503) + codes.count(429)
    latencies = [seconds for status, seconds in requests if status == 200]
    for bound in LATENCY_BOUNDS_MS:
        assert counts.slower_than(bound) == sum(one > bound / 1e3 for one in latencies)


@given(REQUESTS, st.floats(0.01, 1e6))
def test_no_request_within_a_limit_is_ever_called_slower(requests: list[tuple[int, float]], limit: float) -> None:
    slow = sum(status == 200 and seconds * 1e3 > limit * (1 - 1e-12) for status, seconds in requests)
    assert counted(requests).slower_than(limit) <= slow


@given(REQUESTS, REQUESTS)
def test_counts_of_two_workers_add_up(first: list[tuple[int, float]], second: list[tuple[int, float]]) -> None:
    assert counted(first) + counted(second) == counted(first + second)
    assert ServiceCounts() + counted(first) == counted(first)
