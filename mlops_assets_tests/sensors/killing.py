"""A process that is killed before or after any of its writes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest


class Killed(BaseException):
    """The process is gone: nothing catches it."""


class Killer:
    """Kills before and after each write to any store, at the `at`-th of these points."""

    def __init__(self) -> None:
        self.at, self.passed = 0, 0

    @contextmanager
    def armed(self, at: int) -> Iterator[None]:
        self.at, self.passed = at, 0
        try:
            yield
        finally:
            self.at = 0

    def point(self) -> None:
        if self.at:
            self.passed += 1
            if self.passed == self.at:
                raise Killed


def killer_of(monkeypatch: pytest.MonkeyPatch, writes: Sequence[tuple[type, str]]) -> Killer:
    """A killer that stands around these methods, given by class and name."""
    killer = Killer()
    for owner, name in writes:
        monkeypatch.setattr(owner, name, _between_points(killer, getattr(owner, name)))
    return killer


def _between_points(killer: Killer, write: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*given: Any, **named: Any) -> Any:
        killer.point()
        done = write(*given, **named)
        killer.point()
        return done

    return wrapped
