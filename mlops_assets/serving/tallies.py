"""Counting on the hot path: plain numbers in this process, handed to Prometheus now and then. What is counted: `metrics.py`.

In a server with several workers `prometheus_client` writes every change into a memory-mapped file, under a lock; a request
has some ten changes. Here a change is an addition, and what has gathered is handed over once a second and before a scrape:
other workers' values are at most a second old then, and what a killed worker has counted since is lost.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from prometheus_client import Counter, Histogram


class Tally:
    """Counts for one child of a counter. For a single thread, which is also the one to flush."""

    __slots__ = ("_child", "pending")

    def __init__(self, child: Counter) -> None:
        self._child = child
        self.pending = 0

    def inc(self, amount: int = 1) -> None:
        self.pending += amount

    def flush(self) -> None:
        """Hand over what has gathered."""
        if self.pending:
            pending, self.pending = self.pending, 0
            self._child.inc(pending)


class Distribution:
    """Observes for one child of a histogram. For a single thread, which is also the one to flush."""

    __slots__ = ("_bounds", "_child", "_counts", "_total")

    def __init__(self, child: Histogram) -> None:
        self._child = child
        # The public `observe` takes one value at a time; a test holds that these are what it writes to.
        self._bounds: tuple[float, ...] = tuple(child._upper_bounds)
        self._counts = [0] * len(self._bounds)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count one finite value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def flush(self) -> None:
        """Hand over what has gathered."""
        counts, total = self._counts, self._total
        if not any(counts):
            return
        self._counts, self._total = [0] * len(counts), 0.0
        self._child._sum.inc(total)
        for bucket, count in zip(self._child._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


Counting = TypeVar("Counting", bound=Tally | Distribution)


class Family(Generic[Counting]):
    """What is counted under one metric's name, by its labels' values. Each is made once, whichever thread asks for it."""

    def __init__(self, make: Callable[[tuple[str, ...]], Counting]) -> None:
        self._make = make
        self._members: dict[tuple[str, ...], Counting] = {}
        _FAMILIES.append(self)

    def labels(self, *values: str) -> Counting:
        member = self._members.get(values)
        if member is None:
            member = self._members.setdefault(values, self._make(values))
        return member

    def flush(self) -> None:
        for member in list(self._members.values()):
            member.flush()


_FAMILIES: list[Family[Any]] = []


def tallied(counter: Counter) -> Family[Tally]:
    """A counter with labels, counted here."""
    return Family(lambda values: Tally(counter.labels(*values)))


def distributed(histogram: Histogram) -> Family[Distribution]:
    """A histogram with labels, observed here."""
    return Family(lambda values: Distribution(histogram.labels(*values)))


def flush_tallies() -> None:
    """Hand all that has gathered over to Prometheus. On the thread that counts."""
    for family in _FAMILIES:
        family.flush()
