"""What callers get when the champion does not answer: the standby, the last good version, the constant, in that order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.core.rollout import BreakerLimits
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest
from mlops_assets_tests.serving.trials import (
    LIMITS,
    SOON,
    Failing,
    break_version,
    changed,
    loaded,
    release_of,
    standby,
    trial_of,
)

FEATURES = {"temp": 50.5, "seats": 100, "holiday": False, "carrier": "AA", "air port": "JFK", "distance": 1000}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[AppUnderTest]:
    """Version 3 is the champion, 2 stands by, 1 is the last good one, and .25 the constant."""
    home = Home(tmp_path / "home")
    release(home, small_model(version=3))
    with AppUnderTest(home) as app:
        changed(
            app,
            standby=standby(home, 2),
            last_good=release_of(home, small_model(version=1)),
            fallback_value=0.25,
            breaker=LIMITS,
        )
        yield app


def asked(app: AppUnderTest, times: int) -> list[dict[str, Any]]:
    answers = [app.predict(FEATURES) for _ in range(times)]
    assert {one.status_code for one in answers} == {200}
    return [one.json() for one in answers]


@pytest.mark.parametrize("how", ["error", "not finite"])
def test_the_standby_answers_for_a_champion_that_fails_and_not_one_request_does(app: AppUnderTest, how: Any):
    scorer = Failing(how)
    break_version(app, "champion", scorer)
    for one in asked(app, 10):
        assert (one["role"], one["model_version"], one["degraded"]) == ("standby", 2, True)
    assert scorer.asked == 4, "the breaker opens with the fourth failure"
    errors = [one.error or "" for one in app.predictions()]
    assert all(one.startswith("champion version 3: ") for one in errors[:4])
    assert errors[-1].startswith("champion version 3 is not asked: 4 of the last 4 requests failed")
    assert {(one.role, one.version, one.status) for one in app.predictions()} == {("standby", 2, 200)}
    app.wait_for(lambda: loaded(app.home).standby.counts.answered == 10)  # type: ignore[union-attr]
    report = loaded(app.home)
    assert (report.counts.answered, report.counts.failed) == (0, 4)
    assert (report.breaker.state, report.breaker.trips) == ("open", 1)


def test_one_after_the_other_is_asked_and_the_constant_comes_last(app: AppUnderTest):
    break_version(app, "champion", Failing())
    break_version(app, "standby", Failing())
    assert {(one["role"], one["model_version"]) for one in asked(app, 8)} == {("standby", 1)}
    break_version(app, "last_good", Failing())
    for one in asked(app, 8):
        assert (one["role"], one["model_version"], one["probability"]) == ("fallback", 3, 0.25)
        assert one["degraded"] is True
    record = app.predictions()[-1]
    assert (record.role, record.version, record.output) == ("fallback", 3, (0.75, 0.25))
    app.wait_for(lambda: loaded(app.home).fallback.counts.answered == 8)  # type: ignore[union-attr]


def test_the_champion_answers_again_when_it_does_well(app: AppUnderTest):
    changed(app, breaker=SOON)
    whole = break_version(app, "champion", Failing())
    asked(app, 5)
    break_version(app, "champion", whole)
    app.wait_for(lambda: asked(app, 1)[0]["role"] == "champion")
    breaker = app.runtime.state.snapshot.models["delay"].breaker
    # Asked until it has answered all its trials; what is reported is a heartbeat old.
    app.wait_for(lambda: bool(asked(app, 1)) and breaker.state == "closed")
    app.wait_for(lambda: loaded(app.home).breaker.state == "closed")
    assert asked(app, 3)[-1]["role"] == "champion"


def test_a_champion_that_is_slow_is_asked_no_more(app: AppUnderTest):
    changed(app, breaker=BreakerLimits(latency_ms=1e-6, min_requests=4, window=8, open_s=60.0))
    roles = [one["role"] for one in asked(app, 6)]
    assert roles[:4] == ["champion"] * 4, "slow answers are answers"
    assert roles[4:] == ["standby"] * 2
    app.wait_for(lambda: loaded(app.home).breaker.state == "open")
    assert "took longer than" in str(loaded(app.home).breaker.reason)


def test_many_rows_are_stood_in_for_together(app: AppUnderTest):
    break_version(app, "champion", Failing())
    answer = app.post("/v1/models/delay/predict", {"rows": [{"features": FEATURES}] * 300}).json()
    assert (answer["role"], answer["degraded"], len(answer["predictions"])) == ("standby", True, 300)


def test_where_nobody_stands_by_a_broken_champion_is_asked_on(tmp_path: Path):
    """Its breaker would turn away what it might still answer."""
    home = Home(tmp_path)
    release(home, small_model())
    with AppUnderTest(home) as app:
        changed(app, breaker=LIMITS)
        scorer = Failing()
        break_version(app, "champion", scorer)
        assert {app.predict(FEATURES).status_code for _ in range(12)} == {500}
        assert scorer.asked == 12
        app.wait_for(lambda: loaded(home).counts.failed == 12)


def test_a_challengers_request_goes_all_the_way_down_too(app: AppUnderTest):
    changed(app, challenger=trial_of(app.home, 4, "canary", 1.0))
    for place in ("challenger", "champion", "standby"):
        break_version(app, place, Failing())  # type: ignore[arg-type]
    (answer,) = asked(app, 1)
    assert (answer["role"], answer["model_version"]) == ("standby", 1)
    (record,) = app.predictions()
    assert record.error == (
        "challenger version 4: RuntimeError: a fault; champion version 3: RuntimeError: a fault; "
        "standby version 2: RuntimeError: a fault"
    )


def test_probes_find_out_that_the_champion_does_not_answer(app: AppUnderTest):
    break_version(app, "champion", Failing())
    assert app.predict(FEATURES, probe=True).json()["role"] == "standby"
