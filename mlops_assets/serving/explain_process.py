"""The process that explanations are made in, and how a worker asks it. Which answers are explained is told in `explain.py`.

`shap` takes seconds of processor time and some 200 MB to import, and the prediction log may be long: in the worker's own process,
answers would wait for either. The process is started with the first question and ends when nobody asks for long, or with the
worker. Both sides write frames: four bytes of length, and MessagePack.
"""

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Protocol

import msgspec

from mlops_assets.core.explaining import Attribution, CannotExplain, NotInstalled, Question, answer, warm_up
from mlops_assets.core.scoring.scorer import ScorerError
from mlops_assets.stores.log_search import Limits, Search
from mlops_assets.stores.prediction_log import LogError, PredictionLog

IDLE_SECONDS = 600.0
WORK_SECONDS = 60.0
WARM_UP_SECONDS = 600.0  # it needs ten seconds of a core that is not busy, and gives way to all that is

_NICE = 5
_LENGTH = 4
_LOOK_SECONDS = 1.0


class ExplainerFailed(RuntimeError):
    """The process died, or took too long."""


class Lookup(msgspec.Struct, frozen=True):
    """Which answer is looked for, in the log of which folder."""

    folder: str
    prediction_id: str
    limits: Limits


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of the two."""

    question: Question | None = None
    lookup: Lookup | None = None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was asked for, or what was raised in its place and why."""

    attribution: Attribution | None = None
    search: Search | None = None
    raised: str = ""
    message: str = ""


class Asking(Protocol):
    """What explanations are made with."""

    @property
    def is_starting(self) -> bool:
        """Whether who asks now waits for its start, and not for others who have asked. Called by any thread."""
        ...

    def attribute(self, question: Question) -> Attribution:
        """`core.explaining.answer`, done elsewhere; may raise `ExplainerFailed` too."""
        ...

    def search(self, lookup: Lookup) -> Search:
        """`PredictionLog.search`, done elsewhere; may raise `ExplainerFailed` too."""
        ...


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
        self._is_warm = False
        self._is_starting = False
        self._closed = False

    @property
    def is_starting(self) -> bool:
        """Whether the process is being started, or imports what it explains with."""
        return self._is_starting

    def attribute(self, question: Question) -> Attribution:
        """Have a question answered. Raises what `core.explaining.answer` raises, and `ExplainerFailed`."""
        found = self._answered(Asked(question=question)).attribution
        assert found is not None
        return found

    def search(self, lookup: Lookup) -> Search:
        """Have the log searched. Raises `LogError`, and `ExplainerFailed`."""
        found = self._answered(Asked(lookup=lookup)).search
        assert found is not None
        return found

    def _answered(self, asked: Asked) -> Answer:
        known = self._process
        reply = None if known is None else self._ask(known, asked)
        if reply is None:
            # None yet, or it has been idle and gone.
            reply = self._ask(self._started(), asked)
        if reply is None:
            self._end()
            raise ExplainerFailed("the process that makes explanations has died; the service's log says why")
        answer = msgspec.msgpack.decode(reply, type=Answer)
        if answer.raised:
            raise _RAISED[answer.raised](answer.message)
        return answer

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
        self._is_warm = False
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self._idle_seconds), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # an interrupt in a terminal is the worker's to handle
        )
        if self._closed:
            self._end()
            raise ExplainerFailed("the service ends")
        # It says with an empty frame that it can begin.
        if self._warm_up(process) is None:
            self._end()
            raise ExplainerFailed("the process that makes explanations did not start; the service's log says why")
        return process

    def _ask(self, process: "subprocess.Popen[bytes]", asked: Asked) -> bytes | None:
        """The reply; None where the process is gone."""
        assert process.stdin is not None
        try:
            _write(process.stdin, msgspec.msgpack.encode(asked))
        except BrokenPipeError:
            return None
        if asked.question is not None and not self._is_warm:
            # And again that it has imported what it explains with.
            if self._warm_up(process) is None:
                return None
            self._is_warm = True
        return self._reply(process, self._work_seconds)

    def _warm_up(self, process: "subprocess.Popen[bytes]") -> bytes | None:
        self._is_starting = True
        try:
            return self._reply(process, WARM_UP_SECONDS)
        finally:
            self._is_starting = False

    def _reply(self, process: "subprocess.Popen[bytes]", seconds: float) -> bytes | None:
        assert process.stdout is not None
        if not _is_readable(process.stdout, seconds):
            self._end()
            raise ExplainerFailed(f"the process that makes explanations took more than {seconds:g} s, and was ended")
        return _read(process.stdout)


_RAISED: dict[str, type[Exception]] = {
    one.__name__: one for one in (CannotExplain, NotInstalled, ScorerError, LogError)
}


def serve(questions: IO[bytes], answers: IO[bytes], idle_seconds: float) -> None:
    """Say with an empty frame that it can begin, and answer until no more is asked.

    A second empty frame, before the answer to the first question that needs them, says that the large libraries are there.
    """
    _write(answers, b"")
    is_warm = False
    while _is_readable(questions, idle_seconds):
        frame = _read(questions)
        if frame is None:
            return
        asked = msgspec.msgpack.decode(frame, type=Asked)
        if asked.question is not None and not is_warm:
            with contextlib.suppress(NotInstalled):  # whoever asks is told
                warm_up()
            _write(answers, b"")
            is_warm = True
        _write(answers, msgspec.msgpack.encode(_answer(asked)))


def _answer(asked: Asked) -> Answer:
    try:
        if asked.lookup is not None:
            log = PredictionLog(Path(asked.lookup.folder))
            return Answer(search=log.search(asked.lookup.prediction_id, asked.lookup.limits))
        assert asked.question is not None
        return Answer(answer(asked.question))
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
    head = _exactly(stream, _LENGTH)
    return None if head is None else _exactly(stream, int.from_bytes(head, "big"))


def _exactly(stream: IO[bytes], size: int) -> bytes | None:
    """So many bytes and none of the next frame, which whoever waits for that would not see; None at the end."""
    parts, left = [], size
    while left:
        part = os.read(stream.fileno(), left)
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()
    os.nice(_NICE)
    # Whatever a library prints is no answer.
    answering = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answering, float(sys.argv[1]))
