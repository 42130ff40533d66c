"""Is a fresh release failing? Decided from counts of requests within seconds, against what is declared; no window is waited for."""

from typing import Literal

import msgspec
from scipy import stats

from mlops_assets.core.service_counts import ServiceCounts
from mlops_assets.core.spec.response import ServiceLimits

CHANCE = 0.001  # of finding fault, at one look, with a release that is just within its limit
SLOW_SHARE = 0.01  # of requests that may be slower than the declared latency


class ServiceVerdict(msgspec.Struct, frozen=True):
    """What a release does wrong: `count` of `requests` against a declared `limit` (a share), and how likely that is by chance."""

    trouble: Literal["errors", "latency"]
    count: int
    requests: int
    limit: float
    p_value: float
    reason: str

    @property
    def share(self) -> float:
        return self.count / self.requests


def judge_release(counts: ServiceCounts, limits: ServiceLimits, *, chance: float = CHANCE) -> ServiceVerdict | None:
    """Fault that is found with a release; None while none is, or too few requests have come.

    A fault is a share above its limit, and significantly so: exact one-sided binomial test against the limit (Clopper and
    Pearson 1934). Requests that were turned away are no failures. `chance` is that of one look; looks at the same growing
    counts add up: a release that sits exactly at its limit is found at fault in some 2 of 100 hours of 720 looks, one at
    four fifths of it in 1 of 1,000.

    Parameters
    ----------
    counts
        Of all workers together, since the release.
    """
    requests = counts.answered + counts.failed
    if requests < limits.min_requests:
        return None
    errors = _beyond(counts.failed, requests, limits.failed, chance)
    if errors is not None:
        share = counts.failed / requests
        reason = f"{counts.failed} of {requests} requests failed ({share:.1%}), above the {limits.failed:.1%} allowed"
        return ServiceVerdict("errors", counts.failed, requests, limits.failed, errors, reason)
    if limits.latency_ms is None or not counts.answered:
        return None
    slow = counts.slower_than(limits.latency_ms)
    late = _beyond(slow, counts.answered, SLOW_SHARE, chance)
    if late is None:
        return None
    reason = (
        f"{slow} of {counts.answered} requests took longer than {limits.latency_ms:g} ms ({slow / counts.answered:.1%}), above the "
        f"{SLOW_SHARE:.0%} that may"
    )
    return ServiceVerdict("latency", slow, counts.answered, SLOW_SHARE, late, reason)


def _beyond(count: int, requests: int, limit: float, chance: float) -> float | None:
    """The p-value when the share is above the limit beyond chance, else None."""
    if count <= limit * requests:
        return None
    p_value = float(stats.binomtest(count, requests, limit, alternative="greater").pvalue)
    return p_value if p_value < chance else None
