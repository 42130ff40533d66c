"""Requests that are turned away unread, and those that are not."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client import REGISTRY

from mlops_assets.serving.shedding import Shedder
from mlops_assets.serving.tallies import flush_tallies
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest

ROW = small_model().request_rows(1)[0]
PATH = "/v1/models/delay/predict"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def shedder(clock: Clock, max_wait_s: float = 0.5, max_in_flight: int = 10, queue_s: float = 0.0) -> Shedder:
    return Shedder(max_wait_s, max_in_flight, lambda _model: queue_s, clock)


def asked(one: Shedder, deadline: bytes | None = None) -> tuple[int, str] | None:
    refusal = one.refusal("delay", deadline)
    return None if refusal is None else (refusal.status, refusal.message)


def test_requests_of_one_turn_have_waited_for_those_before_them():
    async def turns() -> None:
        clock = Clock()
        one = shedder(clock)
        assert asked(one) is None
        clock.now += 0.4
        assert asked(one) is None
        clock.now += 0.2
        assert asked(one) == (503, "requests wait too long for their turn: come back later")
        await asyncio.sleep(0)  # the next turn
        assert asked(one) is None
        assert one.longest_wait_s() == pytest.approx(0.6)

    asyncio.run(turns())


def test_a_timer_sees_what_else_has_held_the_loop():
    async def held() -> None:
        clock = Clock()
        one = shedder(clock)
        one.start()
        clock.now += 2
        longest = 0.0
        async with asyncio.timeout(20):
            while longest == 0.0:
                await asyncio.sleep(0.001)
                longest = one.longest_wait_s()
        assert longest == pytest.approx(1.95)
        one.stop()

    asyncio.run(held())


def test_no_more_are_answered_at_a_time_than_declared():
    async def many() -> None:
        one = shedder(Clock(), max_in_flight=2)
        one.in_flight = 1
        assert asked(one) is None
        one.in_flight = 2
        assert asked(one) == (503, "too many requests are being answered: come back later")

    asyncio.run(many())


def test_a_scorer_that_is_behind_takes_no_more():
    async def behind() -> None:
        assert asked(shedder(Clock(), queue_s=0.4)) is None
        assert asked(shedder(Clock(), queue_s=0.6)) == (503, "too many rows wait to be scored: come back later")

    asyncio.run(behind())


class TestDeadline:
    def test_what_cannot_be_kept_is_told_at_once(self):
        async def late() -> None:
            one = shedder(Clock(), queue_s=0.02)
            assert asked(one, b"15") == (503, "the answer would come after the request's deadline: come back later")
            assert asked(one, b"25.5") is None
            one.answered("delay", 0.01)
            assert asked(one, b"25.5") is not None
            assert asked(one, b"30") is None

        asyncio.run(late())

    def test_one_slow_answer_does_not_shut_the_door_for_good(self):
        async def slow() -> None:
            one = shedder(Clock())
            one.answered("delay", 0.4)
            answers = [asked(one, b"100") for _ in range(100)]
            assert answers[0] is not None
            assert answers[-1] is None

        asyncio.run(slow())

    @pytest.mark.parametrize("value", [b"soon", b"", b"-1", b"0", b"nan", b"inf"])
    def test_one_that_is_none_is_refused(self, value: bytes):
        async def wrong() -> tuple[int, str] | None:
            return asked(shedder(Clock()), value)

        answer = asyncio.run(wrong())
        assert answer is not None
        assert answer[0] == 400


@pytest.fixture
def app(tmp_path: Path) -> Iterator[AppUnderTest]:
    home = Home(tmp_path)
    release(home, small_model())
    with AppUnderTest(home) as app:
        yield app


def shed(reason: str) -> float:
    flush_tallies()
    return REGISTRY.get_sample_value("mlops_shed_requests_total", {"model": "delay", "reason": reason}) or 0.0


@pytest.mark.parametrize("path", [PATH, "/v2/models/delay/infer"])
def test_what_is_turned_away_is_counted_and_not_read_and_not_logged(app: AppUnderTest, path: str):
    before = shed("in_flight")
    app.runtime.shedder.in_flight = 1000

    answer = app.post(path, b"not even JSON")

    app.runtime.shedder.in_flight = 0
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "too many requests" in answer.text
    assert app.records() == []
    assert shed("in_flight") == before + 1
    assert app.runtime.state.snapshot.models["delay"].counter.counts().shed == 1
    assert app.predict(ROW).status_code == 200
    assert app.runtime.shedder.in_flight == 0


def test_probes_and_pages_are_never_turned_away(app: AppUnderTest):
    app.runtime.shedder.in_flight = 1000
    assert [app.get(path).status_code for path in ("/livez", "/readyz", "/metrics", "/v1/models")] == [200] * 4
    assert app.post("/v1/models/delay/feedback", {"id": "p", "value": 1}).status_code == 503


def test_a_deadline_may_be_sent_with_a_request(app: AppUnderTest):
    body = msgspec.json.encode({"features": ROW})
    headers = {"content-type": "application/json"}

    def ask(ms: str) -> int:
        return app.request("POST", PATH, body, **headers, **{"x-request-deadline-ms": ms}).status_code

    assert ask("60000") == 200
    assert ask("0.000001") == 503
    assert ask("tomorrow") == 400


def test_failed_requests_leave_nothing_in_flight(app: AppUnderTest):
    for body in (b"{", b'{"features":{"nothing":1}}'):
        assert app.post(PATH, body).status_code in (400, 422)
    assert app.post("/v1/models/other/predict", {}).status_code == 404
    assert app.runtime.shedder.in_flight == 0
