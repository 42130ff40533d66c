"""What is answered within a turn of the event loop is answered, logged and counted as on the usual way, or goes that way."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client import REGISTRY

from mlops_assets.core.records import PredictionRecord, Record
from mlops_assets.core.rollout import Challenger, Split
from mlops_assets.core.scoring.scorer import ScorerError
from mlops_assets.serving.tallies import flush_tallies
from mlops_assets.stores.home import Home
from mlops_assets.stores.prediction_log import LogError
from mlops_assets_tests.serving.factory import release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest, Told
from mlops_assets_tests.serving.test_app import FEATURES
from mlops_assets_tests.serving.trials import Failing, break_version, changed, release_of, trial_of

TARGET = b"/v1/models/delay/predict"
PATH = TARGET.decode()
JSON = {"content-type": "application/json"}

AT_ONCE: dict[str, Any] = {
    "plain": {"features": FEATURES},
    "a value missing": {"features": FEATURES | {"temp": None}},
    "a feature left out": {"features": {name: value for name, value in FEATURES.items() if name != "carrier"}},
    "out of the domain": {"features": FEATURES | {"carrier": "ZZ", "temp": 1e6}},
    "the caller's own": {"features": FEATURES, "id": "mine", "entity": "e1", "event_time": "2024-05-01T10:00:00Z"},
    "another time zone": {"features": FEATURES, "entity": "e1", "event_time": "2024-05-01T10:00:00+02:00"},
    "a probe": {"features": FEATURES, "probe": True, "entity": "e1"},
    "a whole number with a point": {"features": FEATURES | {"seats": 100.0}},
}  # fmt: skip
THE_USUAL_WAY: dict[str, Any] = {
    "a list": {"rows": [{"features": FEATURES}, {"features": FEATURES}]},
    "half a seat": {"features": FEATURES | {"seats": 100.5}},
    "text for a number": {"features": FEATURES | {"temp": "warm"}},
    "an unknown field": {"features": FEATURES, "colour": "red"},
    "no features": {},
    "no object": [],
    "a time that UTC has not": {"features": FEATURES, "event_time": "0001-01-01T00:00:00+10:00"},
    "too large": {"features": FEATURES, "id": "x" * 30_000},
}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[AppUnderTest]:
    home = Home(tmp_path / "home")
    release(home, small_model())
    with AppUnderTest(home, max_body_bytes=20_000) as app:
        yield app


def both_ways(app: AppUnderTest, body: bytes, **headers: str) -> tuple[list[tuple[Any, ...]], bool]:
    """Reply and records of a request at once, and on the usual way; and whether the first was taken at once."""
    found = []
    for at_once in (True, False):
        app.at_once = at_once
        before = len(app.predictions())
        reply = app.request("POST", PATH, body, **(JSON | headers))
        app.shadowed()
        found.append((reply.status_code, _lasting(reply), list(map(_facts, app.predictions()[before:]))))
    told = Told()
    sent = [(name.encode(), value.encode()) for name, value in (JSON | headers).items()]

    async def take() -> bool:
        app.app.at_once.takes(TARGET)
        return app.app.at_once.take(told, TARGET, sent, body) is None

    taken = app.run(take())
    app.shadowed()
    return found, taken


def _lasting(reply: httpx.Response) -> tuple[Any, ...]:
    body = reply.json()
    body.pop("prediction_id", None)
    for one in body.get("predictions", ()):
        one.pop("prediction_id")
    headers = {name: reply.headers.get(name) for name in ("content-type", "retry-after", "connection")}
    return body, headers


def _facts(record: PredictionRecord) -> dict[str, Any]:
    facts = msgspec.structs.asdict(record)
    own_time = facts["event_time"] != facts["served_at"]
    for name in ("served_at", "latency_ms", *(() if own_time else ("event_time",))):
        del facts[name]
    if len(facts["id"]) == 36:
        del facts["id"]
    return facts


@pytest.mark.parametrize("what", AT_ONCE)
def test_at_once_the_same_is_answered_and_logged(app: AppUnderTest, what: str):
    found, taken = both_ways(app, msgspec.json.encode(AT_ONCE[what]))
    assert taken
    assert found[0] == found[1]
    assert found[0][0] == 200
    assert len(found[0][2]) == 1


@pytest.mark.parametrize("what", THE_USUAL_WAY)
def test_what_is_unusual_goes_the_usual_way(app: AppUnderTest, what: str):
    found, taken = both_ways(app, msgspec.json.encode(THE_USUAL_WAY[what]))
    assert not taken
    assert found[0] == found[1]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"features": {"temp": NaN}}'])
def test_what_is_no_json_goes_the_usual_way(app: AppUnderTest, body: bytes):
    found, taken = both_ways(app, body)
    assert not taken
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-mlops-debug", "1"),
        ("x-request-deadline-ms", "1000"),
        ("content-encoding", "gzip"),
        ("content-type", "text/plain"),
        ("content-type", "application/json; charset=utf-8"),
    ],
)
def test_what_asks_for_something_special_goes_the_usual_way(app: AppUnderTest, header: str, value: str):
    found, taken = both_ways(app, msgspec.json.encode({"features": FEATURES}), **{header: value})
    assert not taken
    assert found[0] == found[1]


@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_a_challenger_gets_its_share_and_no_more(app: AppUnderTest, mode: Any):
    changed(app, challenger=trial_of(app.home, 2, mode, 0.5))
    inside = Split("salt", 0.5)
    for number in range(40):
        found, taken = both_ways(app, msgspec.json.encode({"features": FEATURES, "entity": f"e{number}"}))
        assert taken
        assert found[0] == found[1]
        assert found[0][1][0]["role"] == ("challenger" if mode == "canary" and inside(f"e{number}") else "champion")
    app.shadowed()
    shadowed = [one.entity for one in app.predictions() if one.role == "shadow"]
    expected = [f"e{number}" for number in range(40) if inside(f"e{number}")] if mode == "shadow" else []
    assert sorted(shadowed) == sorted(name for name in expected for _ in range(3))


@pytest.mark.parametrize("how", ["not compiled", "refuses", "fails"])
def test_who_is_asked_is_drawn_once(tmp_path: Path, how: str):
    """Rows without entity and id go by an id that is drawn: again on the usual way, a share of half would be one of a quarter."""
    home = Home(tmp_path)
    release(home, small_model())
    with AppUnderTest(home) as app:
        model = small_model(version=2, compiled=how != "not compiled")
        stored = release_of(home, model)
        changed(app, challenger=Challenger(stored.version, stored.bundle, "canary", 0.5))
        if how != "not compiled":
            break_version(app, "challenger", Failing() if how == "fails" else Refusing())
        for _ in range(100):
            assert app.predict(FEATURES).status_code == 200
        records = app.predictions()
    inside = Split("salt", 0.5)
    theirs = [one for one in records if one.role == "challenger" or one.error is not None]
    assert {one.id for one in theirs} == {one.id for one in records if inside(one.id)}
    assert 20 < len(theirs) < 80


@pytest.mark.parametrize("settings", [{"cache_rows": 10}, {"log_durability": "disk"}], ids=["cache", "disk"])
def test_where_something_is_waited_for_nothing_is_taken(tmp_path: Path, settings: dict[str, Any]):
    release(Home(tmp_path), small_model())
    with AppUnderTest(Home(tmp_path), **settings) as app:
        assert not app.app.at_once.takes(TARGET)
        assert app.predict(FEATURES).status_code == 200


def test_a_model_that_is_not_compiled_is_not_taken(tmp_path: Path):
    release(Home(tmp_path), small_model(compiled=False))
    with AppUnderTest(Home(tmp_path)) as app:
        assert not app.app.at_once.takes(TARGET)


class Refusing(Failing):
    """A scorer that takes no value."""

    def score_rows(self, rows: Any) -> Any:
        raise ScorerError("feature 'temp' is too large")


class Turn:
    """Requests taken in one turn of the loop, and what happened in which order."""

    def __init__(self, app: AppUnderTest, append: Callable[[Sequence[Record]], None] | None = None) -> None:
        self.happened: list[Any] = []
        self._app = app
        self._append = append or app.runtime.append_at_once
        app.runtime.append_at_once = self._appended  # type: ignore[method-assign]

    def take(self, count: int) -> None:
        async def go() -> None:
            self._app.app.at_once.takes(TARGET)
            for number in range(count):
                body = msgspec.json.encode({"features": FEATURES, "id": f"r{number}"})
                assert self._app.app.at_once.take(_Caller(self, number), TARGET, [], body) is None
            self.happened.append("turn over")
            await asyncio.sleep(0)

        self._app.run(go())

    def _appended(self, records: Sequence[Record]) -> None:
        self.happened.append([record.id for record in records])
        self._append(records)


class _Caller(Told):
    def __init__(self, turn: Turn, number: int) -> None:
        super().__init__()
        self._turn, self._number = turn, number

    def reply(self, status: int, body: bytes, headers: Any) -> None:
        super().reply(status, body, headers)
        self._turn.happened.append((self._number, status, self.replies[0].headers.get("retry-after")))


def test_all_of_a_turn_are_logged_in_one_write_and_then_answered(app: AppUnderTest):
    turn = Turn(app)
    turn.take(3)
    assert turn.happened == ["turn over", ["r0", "r1", "r2"], (0, 200, None), (1, 200, None), (2, 200, None)]
    assert [one.id for one in app.predictions()] == ["r0", "r1", "r2"]


def test_of_very_many_the_first_need_not_wait_for_the_last(app: AppUnderTest):
    turn = Turn(app)
    turn.take(70)
    assert len(turn.happened[0]) == 64
    assert turn.happened.index("turn over") == 65
    assert len(turn.happened[66]) == 6


@pytest.mark.parametrize("error", [LogError("the disk is full"), RuntimeError("a fault")])
def test_what_could_not_be_logged_is_not_given(app: AppUnderTest, error: Exception):
    def full(_records: Sequence[Record]) -> None:
        raise error

    before = _requests("503")
    turn = Turn(app, full)
    turn.take(2)
    assert turn.happened[1] == ["r0", "r1"]
    assert turn.happened[-2:] == [(0, 503, "1"), (1, 503, "1")]
    assert app.predictions() == []
    assert _requests("503") == before + 2


def test_who_cannot_be_told_keeps_nobody_else_from_an_answer(app: AppUnderTest):
    class Gone:
        def reply(self, status: int, body: bytes, headers: Any) -> None:
            raise RuntimeError("the handler is closed")

    told = Told()

    async def go() -> None:
        app.app.at_once.takes(TARGET)
        for caller in (Gone(), told):
            app.app.at_once.take(caller, TARGET, [], msgspec.json.encode({"features": FEATURES}))
        app.app.at_once.end_turn()

    app.run(go())
    assert [one.status_code for one in told.replies] == [200]


def test_what_is_turned_away_is_told_counted_and_not_logged(app: AppUnderTest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(app.runtime.shedder, "in_flight", 10**6)
    before = _requests("503"), _shed()
    reply = app.predict(FEATURES)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
    assert reply.headers["retry-after"] == "1"
    assert app.predictions() == []
    assert (_requests("503"), _shed()) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("what", ["plain", "a list", "text for a number"])
def test_it_is_asked_once_whether_a_request_would_wait_too_long(
    app: AppUnderTest, monkeypatch: pytest.MonkeyPatch, what: str
):
    refusal, asked = app.runtime.shedder.refusal, []
    monkeypatch.setattr(app.runtime.shedder, "refusal", lambda *given: asked.append(given) or refusal(*given))
    app.post(PATH, (AT_ONCE | THE_USUAL_WAY)[what])
    assert len(asked) == 1


def test_a_fault_of_our_own_is_told_by_the_usual_way(app: AppUnderTest, monkeypatch: pytest.MonkeyPatch):
    def broken(*_arguments: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("mlops_assets.serving.at_once.record_and_answer", broken)
    assert app.predict(FEATURES).status_code == 200


def _requests(status: str) -> float:
    flush_tallies()
    labels = {"model": "delay", "route": "predict", "status": status}
    return REGISTRY.get_sample_value("mlops_requests_total", labels) or 0.0


def _shed() -> float:
    flush_tallies()
    labels = {"model": "delay", "reason": "in_flight"}
    return REGISTRY.get_sample_value("mlops_shed_requests_total", labels) or 0.0
