"""How a release does in service, as counts that can be added up over workers. What they prove is told in `core/guard.py`."""

from bisect import bisect_left

import msgspec

LATENCY_BOUNDS_MS = tuple(step * 10**power for power in range(5) for step in (1, 1.5, 2, 3, 5, 7))
_BOUNDS_SECONDS = tuple(bound / 1e3 for bound in LATENCY_BOUNDS_MS)


class ServiceCounts(msgspec.Struct, frozen=True):
    """Requests to one release by what became of them.

    Attributes
    ----------
    answered, failed, shed
        Answered with 200; with a server error; turned away for now (429, 503). What the caller got wrong is not counted.
    slower
        Of the answered ones, how many took longer than each of `LATENCY_BOUNDS_MS`. Empty before the first.
    """

    answered: int = 0
    failed: int = 0
    shed: int = 0
    slower: tuple[int, ...] = ()

    def __add__(self, other: "ServiceCounts") -> "ServiceCounts":
        if not self.slower or not other.slower:
            slower = self.slower or other.slower
        else:
            slower = tuple(map(sum, zip(self.slower, other.slower, strict=True)))
        return ServiceCounts(self.answered + other.answered, self.failed + other.failed, self.shed + other.shed, slower)

    def slower_than(self, limit_ms: float) -> int:
        """How many of the answered requests were surely slower: counted from the next bound at or above the limit."""
        place = bisect_left(LATENCY_BOUNDS_MS, limit_ms)
        return self.slower[place] if place < len(self.slower) else 0


class ServiceCounter:
    """Counts the requests to one release in one worker. For a single thread; others may read."""

    def __init__(self) -> None:
        self._failed = self._shed = 0
        self._bins = [0] * (len(LATENCY_BOUNDS_MS) + 1)

    def observe(self, status: int, seconds: float) -> None:
        if status == 200:
            self._bins[bisect_left(_BOUNDS_SECONDS, seconds)] += 1
        elif status in (429, 503):
            self._shed += 1
        elif status >= 500:
            self._failed += 1

    def counts(self) -> ServiceCounts:
        slower, above = [], 0
        for count in reversed(self._bins[1:]):
            above += count
            slower.append(above)
        answered = above + self._bins[0]
        return ServiceCounts(answered, self._failed, self._shed, tuple(reversed(slower)) if answered else ())
