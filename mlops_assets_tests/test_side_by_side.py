"""Tasks that run together are told in their order, and one that fails lets the others end."""

import io
from threading import Event

import pytest
from rich.console import Console

from mlops_assets.side_by_side import Held, side_by_side


def told(tasks) -> list[str]:
    out = io.StringIO()
    side_by_side(Console(file=out), tasks)
    return out.getvalue().splitlines()


def test_the_second_begins_before_the_first_ends_and_is_told_after_it():
    second_is_there = Event()

    def first(out: Held, has_begun: Event) -> None:
        out.print("first begins")
        has_begun.set()
        assert second_is_there.wait(30)
        out.print("first ends")

    def second(out: Held, has_begun: Event) -> None:
        out.print("second")
        second_is_there.set()

    assert told([first, second]) == ["first begins", "first ends", "second"]


def test_a_failure_before_it_has_begun_does_not_keep_the_next_waiting():
    done = Event()

    def fails(out: Held, has_begun: Event) -> None:
        raise ValueError("no table")

    def works(out: Held, has_begun: Event) -> None:
        done.set()

    with pytest.raises(ValueError, match="no table"):
        told([fails, works])
    assert done.is_set()
