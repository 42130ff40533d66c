"""Floods, bursts and callers who wait, played to the shedder by a clock that goes by what requests cost."""

import asyncio
import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from mlops_assets.serving.flood import Flood
from mlops_assets.serving.shedding import Shedder

SLOW_S, FAST_S, REFUSAL_S = 0.0026, 0.00015, 0.00012
CONNECTIONS = 512


@dataclass
class Played:
    """What became of the requests, in the order in which they were answered; times in seconds."""

    due: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    refused: list[bool] = field(default_factory=list)

    def between(self, start: float, end: float = math.inf) -> "Played":
        chosen = [place for place, due in enumerate(self.due) if start <= due < end]
        return Played(*([values[place] for place in chosen] for values in (self.due, self.took, self.refused)))

    @property
    def answered_s(self) -> list[float]:
        return [took for took, refused in zip(self.took, self.refused, strict=True) if not refused]

    @property
    def refused_s(self) -> list[float]:
        return [took for took, refused in zip(self.took, self.refused, strict=True) if refused]


@dataclass
class Worker:
    """A worker whose event loop takes up in one turn all that came in the one before, and replies at its end.

    As the service does with requests that it cannot answer at once, it `asks_twice`: when they are read and when they are begun.

    Callers have so many connections; what is due while all are busy waits with them. One who is a `regular` asks again as soon as
    answered, until `end`.
    """

    cost_s: Callable[[int], float]
    end: float = 0.0
    regulars: int = 0
    queue_s: float = 0.0
    asks_twice: bool = False
    now: float = 0.0

    def play(self, due: Sequence[float] = (), max_wait_s: float = math.inf) -> Played:
        shedder = Shedder(max_wait_s, 1000, lambda _model: self.queue_s, lambda: self.now, lambda: 0)
        return asyncio.run(self._played(due, shedder))

    async def _played(self, due: Sequence[float], shedder: Shedder) -> Played:
        waiting = [(at, False) for at in due] + [(0.0, True)] * self.regulars
        heapq.heapify(waiting)
        played, place = Played(), 0
        while waiting:
            taken = []
            while waiting and waiting[0][0] <= self.now and len(taken) < CONNECTIONS:
                taken.append(heapq.heappop(waiting))
            refused = [shedder.refusal("delay") is not None for _ in taken] if self.asks_twice else [False] * len(taken)
            self.now += REFUSAL_S * len(taken) if self.asks_twice else 0.0
            if self.asks_twice:
                await asyncio.sleep(0)
            for one in refused:
                is_refused = one or shedder.refusal("delay") is not None
                self.now += 0.0 if one else REFUSAL_S if is_refused else self.cost_s(place)
                played.refused.append(is_refused)
                place += 1
            for at, is_regular in taken:
                played.due.append(at)
                played.took.append(self.now - at)
                if is_regular and self.now < self.end:
                    heapq.heappush(waiting, (self.now, True))
            await asyncio.sleep(0)  # the next turn of the loop
            if not taken:
                for _ in range(3):
                    await asyncio.sleep(0)
                if waiting:
                    self.now = max(self.now, waiting[0][0])
        return played


def steady(rate: float, start: float, end: float) -> list[float]:
    return [float(at) for at in start + np.arange(int(rate * (end - start))) / rate]


def random(rate: float, start: float, end: float, seed: int = 7) -> list[float]:
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(2 * rate * (end - start)))
    return [float(at) for at in start + np.cumsum(gaps) if at < end]


def share_refused(played: Played) -> float:
    return float(np.mean(played.refused))


def percentile_s(seconds: list[float], percent: float) -> float:
    return float(np.percentile(seconds, percent))


@pytest.mark.parametrize(("times", "answers"), [(3, 2.8), (5, 2.0)])
def test_in_a_flood_those_answered_wait_little_and_the_others_are_told_soon(times: int, answers: float):
    capacity = 1 / SLOW_S
    due = [*steady(0.2 * capacity, 0, 2), *steady(times * capacity, 2, 12), *steady(0.2 * capacity, 12, 14)]

    played = Worker(lambda _: SLOW_S).play(due)

    calm, begun, flood, after = (
        played.between(0, 2),
        played.between(2, 2.3),
        played.between(2.3, 12),
        played.between(12),
    )
    assert not any(calm.refused)
    assert len(begun.answered_s) < 0.01 * 30 * capacity  # few enough to be lost among those of half a minute
    assert percentile_s(flood.answered_s, 99) < answers * percentile_s(calm.answered_s, 99)
    assert percentile_s(flood.refused_s, 99) < 3 * SLOW_S
    assert len(flood.answered_s) / 9.7 > 0.75 * capacity
    assert not any(after.between(12.05).refused)
    assert max(after.between(12.05).took) < 2 * SLOW_S


def test_a_flood_of_requests_that_are_asked_about_twice_is_answered_as_far_as_can_be():
    played = Worker(lambda _: SLOW_S, asks_twice=True).play(steady(5 / SLOW_S, 0, 5)).between(2)
    assert len(played.answered_s) / 3 > 0.6 / SLOW_S
    assert percentile_s(played.answered_s, 99) < 2.5 * SLOW_S


def test_a_flood_at_random_moments_is_one_too():
    capacity = 1 / SLOW_S
    played = Worker(lambda _: SLOW_S).play(random(5 * capacity, 0, 10))
    assert percentile_s(played.between(0.3).answered_s, 95) < 3.5 * SLOW_S
    assert 0.8 < share_refused(played) < 0.88


def test_new_callers_who_are_not_even_accepted_are_seen_in_the_queue_of_the_kernel():
    """An event loop that accepts one connection a turn takes up one request more in each: that alone looks like a slow start."""
    flood, now = Flood(lambda: 101), 0.0
    for taken in (1, 2, 3, 4, 5, 6):
        assert flood.allowed_s(now) > 0
        began, now = now, now + taken * SLOW_S
        flood.turn_ended(now, began, taken)
        if flood.is_on:
            break
    assert flood.is_on
    assert 0.05 < now < 0.06

    for waiting, cost_s in ((99, SLOW_S), (511, FAST_S)):
        calm = Flood(lambda waiting=waiting: waiting)  # type: ignore[misc]
        calm.allowed_s(0.0)
        calm.turn_ended(1.0, 0.0, int(1 / cost_s))
        assert not calm.is_on


def test_a_flood_ends_when_nobody_waits_and_comes_back_sooner_after_a_pause():
    waiting = [101]
    flood = Flood(lambda: waiting[0])
    flood.allowed_s(0.0)
    flood.turn_ended(0.1, 0.0, 38)
    flood.turn_ended(0.1, 0.1, 38)
    flood.allowed_s(0.1)
    first_half = [flood.refuses(0.0001 * place, place) for place in range(19)]
    assert all(first_half)  # they have waited longest
    assert not flood.refuses(0.01, 19)
    assert flood.refuses(0.01 + SLOW_S, 20)
    flood.turn_ended(0.12, 0.1, 21)
    assert not flood.nobody_waits(0.13)  # but to be accepted
    assert flood.is_on
    waiting[0] = 0
    assert not flood.nobody_waits(0.13)
    assert not flood.is_on

    assert flood.allowed_s(0.2) < 2 * SLOW_S
    assert not flood.refuses(1.6 * SLOW_S, 1)
    assert flood.refuses(2 * SLOW_S, 2)
    flood.turn_ended(0.21, 0.2, 3)
    flood.nobody_waits(0.21)
    assert flood.nobody_waits(2.0)
    assert flood.allowed_s(2.0) == math.inf


@pytest.mark.parametrize("callers", [16, 64, 100])
@pytest.mark.parametrize("cost_s", [FAST_S, 0.0031])
def test_callers_who_wait_for_their_answers_wait_for_each_other(callers: int, cost_s: float):
    """As those of batches do, who keep the worker busy without a pause."""
    assert share_refused(Worker(lambda _: cost_s, end=2.0, regulars=callers).play()) == 0


def test_as_many_as_can_connect_may_ask_a_fast_model_without_a_pause():
    assert share_refused(Worker(lambda _: FAST_S, end=1.0, regulars=CONNECTIONS).play()) == 0


@pytest.mark.parametrize("over_s", [0.0, 0.03])
def test_a_burst_for_a_fast_model_is_answered(over_s: float):
    burst = [1.0 + over_s * place / 512 for place in range(512)]
    assert share_refused(Worker(lambda _: FAST_S).play(burst + random(0.2 / FAST_S, 0, 2))) == 0


@pytest.mark.parametrize("load", [0.5, 0.9])
def test_what_a_slow_model_can_answer_is_answered(load: float):
    assert share_refused(Worker(lambda _: SLOW_S).play(random(load / SLOW_S, 0, 10))) == 0


def test_others_wait_for_a_long_batch():
    played = Worker(lambda place: 0.2 if place % 500 == 499 else FAST_S).play(random(1000, 0, 5))
    assert share_refused(played) == 0
    assert max(played.took) > 0.2


def test_a_wait_that_is_set_holds_whatever_requests_take():
    burst = Worker(lambda _: FAST_S).play([0.0] * 100, max_wait_s=0.005)
    assert share_refused(burst) == pytest.approx(0.66, abs=0.01)
    capacity = 1 / SLOW_S
    flood = Worker(lambda _: SLOW_S).play(steady(5 * capacity, 0, 5), max_wait_s=10.0)
    assert share_refused(flood) == 0


def test_a_worker_that_is_slow_beside_the_event_loop_is_no_flood():
    """Rows for a model that is not compiled wait for threads: that queue has its own limit."""
    assert share_refused(Worker(lambda _: FAST_S, queue_s=0.9).play(random(0.9 / FAST_S, 0, 1))) == 0
    assert share_refused(Worker(lambda _: FAST_S, queue_s=1.1).play(random(0.9 / FAST_S, 0, 1))) == 1
