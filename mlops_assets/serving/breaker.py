"""When a worker asks a version no more, and when again: the state machine alone. Who is asked instead is told in `predict.py`.

The pattern is Nygard's circuit breaker (Release It!, 2007), with a sliding window of requests in place of one of time.
"""

from collections import deque
from collections.abc import Callable
from typing import Literal

from mlops_assets.core.rollout import BreakerLimits

State = Literal["closed", "open", "half-open"]
Trouble = Literal["error", "not finite", "slow"]

_LONGEST = 16  # times `open_s`, after trials that failed


class Breaker:
    """Watches what becomes of the requests to one version. For one thread; others may read.

    Closed, the version is asked. Open, it is not. Half-open, it is asked for a few requests, and closes when it answers all of
    them well. Trials that come to nothing (the caller was wrong, or has left) are given out again after `open_s`.

    Parameters
    ----------
    clock
        Seconds that never go back.
    told
        Called with the breaker at each change of its state.

    Attributes
    ----------
    is_closed
        Read before each request: where it is true, `admits` need not be asked.
    trips
        How often it has opened, half-open trials that failed included.
    reason
        Why it opened the last time; None before.
    """

    def __init__(
        self, limits: BreakerLimits, clock: Callable[[], float], told: Callable[["Breaker"], None] | None = None
    ) -> None:
        self.limits = limits
        self.is_closed = True
        self.trips = 0
        self.reason: str | None = None
        self._clock = clock
        self._told = told
        self._half_open = False
        self._again_at = 0.0
        self._trials_failed = 0
        self._tokens = self._well = 0
        self._latency = float("inf") if limits.latency_ms is None else limits.latency_ms / 1e3
        self._requests = 0
        self._failed: deque[int] = deque()
        self._slow: deque[int] = deque()

    @property
    def state(self) -> State:
        return "closed" if self.is_closed else "half-open" if self._half_open else "open"

    def admits(self) -> bool:
        """Whether the version may be asked for the request at hand. An open breaker gives out its trials here."""
        if self.is_closed:
            return True
        now = self._clock()
        if self._tokens == 0 or not self._half_open:
            if now < self._again_at:
                return False
            self._tokens, self._well = self.limits.probes, 0
            self._again_at = now + self.limits.open_s
            if not self._half_open:
                self._half_open = True
                self._tell()
        self._tokens -= 1
        return True

    def answered(self, seconds: float) -> None:
        """The version answered, and took so long to score."""
        self._requests += 1
        if seconds > self._latency:
            self._note(self._slow, "slow")
        elif self._half_open:
            self._well += 1
            if self._well >= self.limits.probes:
                self._close()

    def failed(self, trouble: Trouble) -> None:
        """The version did not answer: it raised an error, or gave what is no finite number."""
        self._requests += 1
        self._note(self._failed, trouble)

    def _note(self, bad: deque[int], trouble: Trouble) -> None:
        limits = self.limits
        if not self.is_closed:
            # What was asked before it opened may end only now, and tells nothing new.
            if self._half_open:
                self._trials_failed += 1
                self._open(f"tried again, and {_WORDS[trouble]}")
            return
        bad.append(self._requests)
        while bad[0] <= self._requests - limits.window:
            bad.popleft()
        requests = min(self._requests, limits.window)
        allowed = limits.slow if trouble == "slow" else limits.failed
        if requests >= limits.min_requests and len(bad) > allowed * requests:
            what = f"took longer than {limits.latency_ms:g} ms to score" if trouble == "slow" else "failed"
            self._open(f"{len(bad)} of the last {requests} requests {what}, the last one {_WORDS[trouble]}")

    def _open(self, reason: str) -> None:
        self.is_closed = self._half_open = False
        self._tokens = 0
        self.trips += 1
        self.reason = reason
        self._again_at = self._clock() + self.limits.open_s * min(2**self._trials_failed, _LONGEST)
        self._tell()

    def _close(self) -> None:
        self.is_closed, self._half_open = True, False
        self._trials_failed = self._requests = 0
        self._failed.clear()
        self._slow.clear()
        self._tell()

    def _tell(self) -> None:
        if self._told is not None:
            self._told(self)


_WORDS: dict[Trouble, str] = {
    "error": "raised an error",
    "not finite": "gave no finite number",
    "slow": "was too slow",
}
