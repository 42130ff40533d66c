import pytest
from scipy import stats

from mlops_assets.core.guard import CHANCE, judge_release
from mlops_assets.core.service_counts import LATENCY_BOUNDS_MS, ServiceCounts
from mlops_assets.core.spec.response import ServiceLimits

LIMITS = ServiceLimits(failed=0.05, latency_ms=100, min_requests=50)


def slow(answered: int, above_100_ms: int) -> ServiceCounts:
    return ServiceCounts(answered, slower=tuple(above_100_ms if bound <= 100 else 0 for bound in LATENCY_BOUNDS_MS))


def test_a_release_that_fails_often_is_found_and_told() -> None:
    verdict = judge_release(ServiceCounts(answered=40, failed=20), LIMITS)
    assert verdict is not None
    assert (verdict.trouble, verdict.count, verdict.requests, verdict.limit) == ("errors", 20, 60, 0.05)
    assert verdict.share == pytest.approx(1 / 3)
    assert verdict.reason == "20 of 60 requests failed (33.3%), above the 5.0% allowed"


def test_too_few_requests_say_nothing_and_shed_ones_never_do() -> None:
    assert judge_release(ServiceCounts(answered=0, failed=49), LIMITS) is None
    assert judge_release(ServiceCounts(answered=0, failed=50), LIMITS) is not None
    assert judge_release(ServiceCounts(answered=60, shed=10_000), LIMITS) is None


@pytest.mark.parametrize("requests", [50, 200, 1_000, 20_000])
def test_the_boundary_is_that_of_the_exact_test(requests: int) -> None:
    """The smallest count with a tail below .001 is found, and one failure less is not."""
    smallest = int(stats.binom.isf(CHANCE, requests, LIMITS.failed)) + 1
    found = judge_release(ServiceCounts(requests - smallest, smallest), LIMITS)
    assert found is not None
    assert found.p_value == pytest.approx(stats.binom.sf(smallest - 1, requests, LIMITS.failed))
    assert judge_release(ServiceCounts(requests - smallest + 1, smallest - 1), LIMITS) is None


def test_a_limit_of_nothing_is_broken_by_one_failure_and_that_of_everything_never() -> None:
    assert judge_release(ServiceCounts(99, 1), ServiceLimits(failed=0)) is not None
    assert judge_release(ServiceCounts(0, 100), ServiceLimits(failed=1)) is None


def test_more_than_one_in_a_hundred_too_slow_is_found() -> None:
    verdict = judge_release(slow(200, 10), LIMITS)
    assert verdict is not None
    assert (verdict.trouble, verdict.count, verdict.requests) == ("latency", 10, 200)
    assert verdict.reason == "10 of 200 requests took longer than 100 ms (5.0%), above the 1% that may"
    assert judge_release(slow(200, 3), LIMITS) is None, "3 of 200 are not beyond chance"
    assert judge_release(slow(200, 200), ServiceLimits(latency_ms=150)) is None, (
        "none of them is surely slower than 150 ms"
    )


def test_without_a_declared_latency_none_is_too_slow() -> None:
    assert judge_release(slow(200, 200), ServiceLimits(latency_ms=None)) is None
