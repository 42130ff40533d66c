"""Turning requests away while too much waits, before anything that they say is looked at.

Who may come in at all is told in `door.py`; what is a flood, in `flood.py`.

A caller who is told at once to come back is better off than one who waits for an answer that comes too late, and so are all
behind it. What is turned away is counted and not logged: under overload the log is what must go on working.
"""

import asyncio
import math
import time
from collections.abc import Callable

from mlops_assets.serving.backlog import waiting_connections
from mlops_assets.serving.errors import Refusal
from mlops_assets.serving.flood import SHORT_S, Flood
from mlops_assets.serving.metrics import count_shed

DEADLINE_HEADER = b"x-request-deadline-ms"
SHED = "overloaded"
MOST_WAIT_S = 1.0

_LOOK_SECONDS = 0.05
_LATE_SECONDS = 0.005  # timers are no finer than some milliseconds
_NEW = 0.1  # weight of the newest scoring in the usual one
_HOPE = 0.95  # the usual one times this, for each request turned away because of it

_RETRY = ((b"retry-after", b"1"),)
_WHY = {
    "flood": "more is asked for than can be answered",
    "lag": "requests wait too long for their turn",
    "in_flight": "too many requests are being answered",
    "queue": "too many rows wait to be scored",
    "deadline": "the answer would come after the request's deadline",
}


class Shedder:
    """One worker's look at what waits. On the event loop alone.

    How long a request waits for its turn cannot be seen from the request. What can: all that have arrived while the loop was
    busy are taken up in one turn of it, one after the other, so that the time since the first of them began has been waited by
    each. A timer, and how late it is, shows what else has held the loop up.

    Parameters
    ----------
    max_wait_s
        Longest wait, for the turn or for the scorer, that a request is taken in with. Infinity goes by what requests take: none
        waits long in a flood, and none longer than `MOST_WAIT_S` else.
    max_in_flight
        Requests that may be answered at a time.
    queue_s
        Seconds until the scorer of a model would begin with one more request.
    clock
        Seconds that never go back.
    backlog
        Connections that wait to be accepted.

    Attributes
    ----------
    in_flight
        Requests that are being answered; counted up and down by whoever answers them.
    learns
        Whether any request has come with a deadline, so that it is worth to know how long scoring takes.
    """

    def __init__(
        self,
        max_wait_s: float,
        max_in_flight: int,
        queue_s: Callable[[str], float],
        clock: Callable[[], float] = time.monotonic,
        backlog: Callable[[], int] = waiting_connections,
    ) -> None:
        self.in_flight = 0
        self.learns = False
        self._max_wait_s = MOST_WAIT_S if max_wait_s == math.inf else max_wait_s
        self._flood = Flood(backlog) if max_wait_s == math.inf else None
        self._is_watched = False
        self._allowed_s = self._max_wait_s
        self._max_in_flight = max_in_flight
        self._queue_s = queue_s
        self._clock = clock
        self._usual: dict[str, float] = {}
        self._began: float | None = None
        self._taken = self._turns = 0
        self._longest = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look at how late the event loop is. Called on it."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_LOOK_SECONDS, self._look, self._clock() + _LOOK_SECONDS)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def refusal(self, model: str, deadline: bytes | None = None) -> Refusal | None:
        """Why a request is turned away, counted; None where it is taken in. `deadline` is the value of its `DEADLINE_HEADER`.

        A wrong deadline is told with 400, everything else with 503 and when to come back.
        """
        now = self._clock()
        if self._began is None:
            self._begin_turn(now)
            waited = 0.0
        else:
            self._taken += 1
            waited = now - self._began
        if waited > self._allowed_s and (reason := self._too_late(waited)):
            return _turned_away(reason, model)
        if self.in_flight >= self._max_in_flight:
            return _turned_away("in_flight", model)
        queue = self._queue_s(model)
        if waited + queue > self._max_wait_s:
            return _turned_away("queue", model)
        return None if deadline is None else self._late(model, deadline, waited + queue)

    def answered(self, model: str, scoring_s: float) -> None:
        """Learn how long scoring takes."""
        usual = self._usual.get(model)
        self._usual[model] = scoring_s if usual is None else usual + _NEW * (scoring_s - usual)

    def longest_wait_s(self) -> float:
        """Of the requests and the timer since the last call."""
        longest, self._longest = self._longest, 0.0
        return longest

    def _too_late(self, waited: float) -> str | None:
        if waited > self._max_wait_s:
            return "lag"
        return "flood" if self._flood is not None and self._flood.refuses(waited, self._taken - 1) else None

    def _late(self, model: str, value: bytes, wait: float) -> Refusal | None:
        self.learns = True
        try:
            deadline_s = float(value) / 1e3
        except ValueError:
            deadline_s = math.nan
        if not 0 < deadline_s < math.inf:
            message = f"{DEADLINE_HEADER.decode()} is to be the milliseconds that the caller still waits, above zero"
            return Refusal(400, "malformed_request", message)
        usual = self._usual.get(model, 0.0)
        if wait + usual <= deadline_s:
            return None
        if usual > deadline_s:
            # It is not measured while all are turned away, and one slow answer would shut the door for good.
            self._usual[model] = usual * _HOPE
        return _turned_away("deadline", model)

    def _look(self, due: float) -> None:
        now = self._clock()
        if now - due > _LATE_SECONDS and self._began is None:
            self._begin_turn(due)
            self._taken = 0
        assert self._loop is not None
        self._timer = self._loop.call_later(_LOOK_SECONDS, self._look, now + _LOOK_SECONDS)

    def _begin_turn(self, began: float) -> None:
        self._began = began
        self._taken = 1
        self._turns += 1
        if self._is_watched:
            assert self._flood is not None
            self._allowed_s = min(self._max_wait_s, self._flood.allowed_s(began))
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        # What is called soon is called before whatever arrives from now on.
        self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        assert self._began is not None
        now, began = self._clock(), self._began
        self._longest = max(self._longest, now - began)
        self._began = None
        if self._flood is None:
            return
        if now - began >= SHORT_S or self._flood.is_on:
            self._is_watched = True
            self._flood.turn_ended(now, began, self._taken)
            assert self._loop is not None
            # Loops differ in whether what has arrived is taken up before or after what is called soon.
            self._loop.call_soon(self._loop.call_soon, self._end_watch, self._turns)
        elif self._is_watched:
            self._end_watch(self._turns)

    def _end_watch(self, turns: int) -> None:
        """Whether any request was taken up since, in a turn of some length."""
        if turns == self._turns:
            assert self._flood is not None
            self._is_watched = not self._flood.nobody_waits(self._clock())
            self._allowed_s = self._max_wait_s


def queue_full(model: str, *, is_counted: bool = True) -> Refusal:
    """What a request is answered that finds the queue of a scorer full, unless somebody else answers it."""
    return _turned_away("queue", model) if is_counted else _refusal("queue")


def _turned_away(reason: str, model: str) -> Refusal:
    count_shed(model, reason)
    return _refusal(reason)


def _refusal(reason: str) -> Refusal:
    return Refusal(503, SHED, f"{_WHY[reason]}: come back later", headers=_RETRY)
