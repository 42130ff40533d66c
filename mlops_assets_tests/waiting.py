"""Waiting for what another thread or process does, with a deadline instead of a fixed time."""

import time
from collections.abc import Callable


def wait_until(what: Callable[[], bool], timeout_s: float = 30, every_s: float = 0.02) -> None:
    """Return as soon as `what()` is true; AssertionError when it is not in time."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, f"not true within {timeout_s} s: {what}"
        time.sleep(every_s)
