"""The process that explanations are made in, and how a worker asks it. Which answers are explained is told in `explain.py`.

`shap` takes seconds of processor time and some 200 MB to import: in the worker's own process, answers would wait for that. The
process is started with the first explanation and ends when nobody asks for long, or with the worker. Both sides write frames: four
bytes of length, and MessagePack.
"""

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from typing import IO

import msgspec

from mlops_assets.core.explaining import Attribution, CannotExplain, NotInstalled, Question, answer, warm_up
from mlops_assets.core.scoring.scorer import ScorerError

IDLE_SECONDS = 600.0
WORK_SECONDS = 60.0
START_SECONDS = 600.0  # it needs ten seconds of a core that is not busy, and gives way to all that is

_NICE = 5
_LENGTH = 4
_LOOK_SECONDS = 1.0


class ExplainerFailed(RuntimeError):
    """The process died, or took too long."""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An attribution, or what was raised in its place and why."""

    attribution: Attribution | None = None
    raised: str = ""
    message: str = ""


class ExplainProcess:
    """A worker's side. For one thread at a time, but for `close`.

    Parameters
    ----------
    work_seconds
        The process is ended when one answer takes longer.
    idle_seconds
        It ends by itself when it has not been asked for so long.
    """

    def __init__(self, work_seconds: float = WORK_SECONDS, idle_seconds: float = IDLE_SECONDS) -> None:
        self._work_seconds = work_seconds
        self._idle_seconds = idle_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def __call__(self, question: Question) -> Attribution:
        """Have a question answered. Raises what `core.explaining.answer` raises, and `ExplainerFailed`."""
        asked = msgspec.msgpack.encode(question)
        known = self._process
        reply = None if known is None else self._ask(known, asked)
        if reply is None:
            # None yet, or it has been idle and gone.
            reply = self._ask(self._started(), asked)
        if reply is None:
            self._end()
            raise ExplainerFailed("the process that makes explanations has died; the service's log says why")
        found = msgspec.msgpack.decode(reply, type=Answer)
        if found.attribution is None:
            raise _RAISED[found.raised](found.message)
        return found.attribution

    def close(self) -> None:
        """End the process, also in the middle of an answer. Called by any thread."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _started(self) -> "subprocess.Popen[bytes]":
        self._end()
        if self._closed:
            raise ExplainerFailed("the service ends")
        path = os.pathsep.join(folder for folder in sys.path if folder)
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self._idle_seconds), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # an interrupt in a terminal is the worker's to handle
        )
        assert process.stdout is not None
        if self._closed:
            self._end()
            raise ExplainerFailed("the service ends")
        if not _is_readable(process.stdout, START_SECONDS):
            self._end()
            raise ExplainerFailed(f"the process that makes explanations was not ready within {START_SECONDS:g} s")
        _read(process.stdout)
        return process

    def _ask(self, process: "subprocess.Popen[bytes]", question: bytes) -> bytes | None:
        """The reply; None where the process is gone."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _write(process.stdin, question)
        except BrokenPipeError:
            return None
        if not _is_readable(process.stdout, self._work_seconds):
            self._end()
            raise ExplainerFailed(f"the explanation was not ready within {self._work_seconds:g} s, and is given up")
        return _read(process.stdout)


_RAISED: dict[str, type[Exception]] = {one.__name__: one for one in (CannotExplain, NotInstalled, ScorerError)}


def serve(questions: IO[bytes], answers: IO[bytes], idle_seconds: float) -> None:
    """Say with an empty frame that it can begin, and answer until no more is asked."""
    _write(answers, b"")
    while _is_readable(questions, idle_seconds):
        asked = _read(questions)
        if asked is None:
            return
        _write(answers, msgspec.msgpack.encode(_answer(msgspec.msgpack.decode(asked, type=Question))))


def _answer(question: Question) -> Answer:
    try:
        return Answer(answer(question))
    except tuple(_RAISED.values()) as error:
        name = next(name for name, one in _RAISED.items() if isinstance(error, one))
        return Answer(raised=name, message=str(error))


def _end_with(worker: int) -> None:
    """Its input ends with the worker too; to notice that it would have to be waiting for a question."""
    while os.getppid() == worker:
        time.sleep(_LOOK_SECONDS)
    os._exit(0)


def _is_readable(stream: IO[bytes], seconds: float) -> bool:
    """Whether there is something to read, or the other side has gone, within so many seconds."""
    # Not `select`, which takes no descriptor above 1023: with a thousand connections there are no others.
    poller = select.poll()
    poller.register(stream, select.POLLIN)
    return bool(poller.poll(seconds * 1e3))


def _write(stream: IO[bytes], frame: bytes) -> None:
    stream.write(len(frame).to_bytes(_LENGTH, "big") + frame)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes | None:
    """The next frame; None at the end."""
    head = stream.read(_LENGTH)
    if len(head) < _LENGTH:
        return None
    size = int.from_bytes(head, "big")
    frame = stream.read(size)
    return frame if len(frame) == size else None


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()
    os.nice(_NICE)
    # Whatever a library prints is no answer.
    answering = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(NotInstalled):  # whoever asks is told
        warm_up()
    serve(sys.stdin.buffer, answering, float(sys.argv[1]))
