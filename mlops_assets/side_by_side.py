"""Work that is done at the same time and told one after the other, for people to follow."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Lock

from rich.console import Console


class Held:
    """Prints what comes only when it is let go; until then another has the stage."""

    def __init__(self, out: Console) -> None:
        self._out, self._lines, self._free, self._lock = out, list[tuple[str, str, bool]](), False, Lock()

    def print(self, text: str, *, end: str = "\n", markup: bool = True) -> None:
        with self._lock:
            if self._free:
                self._out.print(text, end=end, markup=markup)
            else:
                self._lines.append((text, end, markup))

    def let_go(self) -> None:
        with self._lock:
            for text, end, markup in self._lines:
                self._out.print(text, end=end, markup=markup)
            self._free = True


def side_by_side(out: Console, tasks: Sequence[Callable[[Held, Event], None]]) -> None:
    """Do all tasks at the same time, each begun when the one before it says so by the event, and tell each in its turn.

    The first task's failure, in their order, is raised when all have ended.
    """
    voices = [Held(out) for _ in tasks]
    with ThreadPoolExecutor(len(tasks)) as pool:
        running: list[Future[None]] = []
        for task, voice in zip(tasks, voices, strict=True):
            has_begun = Event()
            running.append(pool.submit(task, voice, has_begun))
            while not has_begun.wait(0.1) and not running[-1].done():
                pass
        for voice, one in zip(voices, running, strict=True):
            voice.let_go()
            one.result()
