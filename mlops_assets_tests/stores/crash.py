"""Death of a process between any two steps that change the disk."""

import os
from collections.abc import Callable, Iterator
from typing import NoReturn

STEPS = ("open", "write", "fsync", "fdatasync", "replace", "rename", "mkdir", "unlink", "ftruncate")


def crashes(prepare: Callable[[], Callable[[], object]]) -> Iterator[int]:
    """Prepare afresh and run the prepared action in a process that dies before its n-th step, for every n in turn.

    Yields n after each death, for the caller to look at what was left; ends when the action ran through.
    """
    for n in range(1000):
        action = prepare()
        child = os.fork()
        if child == 0:
            _run(action, n)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            return
        assert status == _DIED, "the action failed by itself"
        yield n
    raise AssertionError("the action never ends")


_DIED = 77


def _run(action: Callable[[], object], steps: int) -> NoReturn:
    left = steps

    def counted(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def step(*args: object, **kwargs: object) -> object:
            nonlocal left
            if left == 0:
                if name == "write":  # die in the middle of it
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                os._exit(_DIED)
            left -= 1
            return real(*args, **kwargs)

        return step

    for name in STEPS:
        setattr(os, name, counted(name))
    code = 1
    try:
        action()
        code = 0
    finally:
        os._exit(code)
