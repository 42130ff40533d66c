"""Whether more is asked for than a worker can answer, as against a burst or callers who wait for each other. Who is refused then is
told in `shedding.py`.

What waits is in the sockets, out of sight, but for its effect: all that came on open connections while one turn of the event loop
lasted is taken up in the next. Where more is asked for than can be answered, a turn takes up more than all before it together, as
long as there are connections; or else new connections wait (`backlog.py`). A burst is one long turn with short ones after it.
Callers who wait for their answers before they ask again are never more than they are, however long their requests take.
(Schroeder, Wierman and Harchol-Balter, "Open versus closed: a cautionary tale", NSDI 2006, tells why these are two cases.)

Once it is a flood, each turn answers about one request and refuses the others, until a turn of the loop finds nobody waiting: the
time in the queue, not its length, is held to a target until it has been empty, as in CoDel (Nichols and Jacobson, "Controlling
queue delay", ACM Queue 2012). What waits in the sockets has waited up to a turn, so that the target is to be short. The first
half of those taken up, who have waited longest, are refused before one is answered: the last come are served first while there are
too many, as Facebook's adaptive LIFO does (Maurer, "Fail at scale", ACM Queue 2015).
"""

import math
from collections.abc import Callable
from typing import Final

SHORT_S: Final = 0.001  # turns that are as good as a pause
_LONG_S = 0.05  # waits of which it is asked whether they are those of a flood
_MANY = 32  # requests before one that has waited so long
_GROWTH = 1.5  # of a turn over all since the last pause
_LONGER_S = 0.5
_IN_SIGHT_S = 0.2  # wait of the last of those who are to be accepted
_CALLERS = 100  # that may wait for each other
# An answer that takes no longer: a refusal is not much cheaper, and all who can connect are soon answered.
_CHEAP_S = 0.001
_HELD = 0.5  # the wait for those before it, in times that a request takes: one is answered, and what is quick
_WARY_S = 1.0  # after a flood, which may have paused, and no longer than it has lasted
_WARY = 1.5  # the wait allowed then, in times that a request takes: two are answered
_NEW = 0.1  # weight of the newest turn in what a request usually takes


class Flood:
    """One worker's turns, as long as each has found someone waiting. Times are by any clock that never goes back.

    Parameters
    ----------
    backlog
        Connections that wait to be accepted.

    Attributes
    ----------
    is_on
        Whether more is asked for than can be answered.
    """

    def __init__(self, backlog: Callable[[], int]) -> None:
        self.is_on = False
        self._backlog = backlog
        self._usual_s = 0.0
        self._since = self._wary_until = -math.inf
        # Requests taken up in the turns directly before this one, the latest first, and in all since the last pause.
        self._former = self._earlier = self._all = 0
        self._began = -math.inf
        self._busy_since: float | None = None
        # In a turn of a flood: how many are refused first, since when the others are answered, and for how long that has been.
        self._skipped = self._admitted = 0
        self._answering_from: float | None = None
        self._answering_s: float | None = None
        self._target_s = 0.0
        self._asked = self._refused = 0

    def allowed_s(self, now: float) -> float:
        """The wait, in a turn that begins now, up to which nobody need be asked about."""
        began, self._began = self._began, now
        if self.is_on:
            self._hold(now - began)
            return -math.inf
        if now < self._wary_until:
            return _WARY * self._usual_s
        return _LONG_S if self._former else math.inf

    def refuses(self, waited_s: float, before: int) -> bool:
        """Whether to refuse a request that has waited longer than is allowed, with so many before it in this turn."""
        if not self.is_on:
            if not before or not self._begins(waited_s, before):
                return False
            self._start(waited_s / before)
            self._answering_s = waited_s
        elif self._answering_s is None and before >= self._skipped:
            if self._answering_from is None:
                self._answering_from = waited_s
            answering_s = waited_s - self._answering_from
            if answering_s <= self._target_s:
                self._admitted += 1
                return False
            self._usual_s += _NEW * (answering_s / self._admitted - self._usual_s)
            self._answering_s = answering_s
        self._refused += 1
        return True

    def turn_ended(self, now: float, began: float, taken: int) -> None:
        """Told of the requests that were taken up in it, refused or not."""
        self._former, self._earlier = taken, self._former
        self._all += taken
        self._asked += taken
        if self._busy_since is None:
            self._busy_since = began
        if taken and not self.is_on and now - self._busy_since > _LONG_S:
            usual_s = (now - began) / taken
            callers = self._backlog()
            if callers > _CALLERS and usual_s > _CHEAP_S and callers * usual_s > _IN_SIGHT_S:
                self._start(usual_s)

    def nobody_waits(self, now: float) -> bool:
        """Told that nothing was taken up after a turn; whether the next is one like any other, and need not be told of."""
        if self._backlog():
            return False
        if self.is_on:
            self.is_on, self._answering_s = False, None
            if self._refused > self._asked / 3:
                self._wary_until = now + min(_WARY_S, now - self._since)
        self._former = self._earlier = self._all = 0
        self._busy_since = None
        return now >= self._wary_until

    def _start(self, usual_s: float) -> None:
        self.is_on, self._usual_s = True, usual_s
        if self._began >= self._wary_until:
            self._since = self._began
            self._asked = self._refused = 0

    def _begins(self, waited_s: float, before: int) -> bool:
        if self._began < self._wary_until:
            return before >= _WARY
        grows = before >= _GROWTH * self._all and self._earlier > 0
        stays = before >= self._former / 2 and self._former >= _CALLERS
        matters = waited_s > _CHEAP_S * before >= _CHEAP_S * _MANY
        return (grows and matters) or (stays and before >= _CALLERS and waited_s > _LONGER_S)

    def _hold(self, former_turn_s: float) -> None:
        """A third of the time is for answers, however long refusing takes."""
        refusing_s = 0.0 if self._answering_s is None else former_turn_s - self._answering_s
        self._target_s = max(_HELD * self._usual_s, refusing_s / 2)
        self._answering_from = self._answering_s = None
        # Turns differ: of requests that are not answered at once, some come with each.
        self._skipped, self._admitted = min(self._former, self._earlier) // 2, 0
