"""The scorecard of a real deployment: its ledger in SQLite, its log in the lake."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops_assets.core.scorecard_values import ALL_MODELS, AVAILABILITY, Card, Figure, Target, Unit
from mlops_assets.operations.scorecard import lines_of, make_scorecard
from mlops_assets_tests.core.examples import LIVE_FROM
from mlops_assets_tests.operations.scorecard_deployment import deployed
from mlops_assets_tests.operations.traffic_examples import DAY, Traffic

AT = datetime(2024, 4, 1, tzinfo=UTC)


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    return deployed(tmp_path)


def values(card: Card) -> list[float | None]:
    return [one.value for one in card.figures]


def test_everything_that_is_known_is_gathered(traffic: Traffic) -> None:
    made = make_scorecard(traffic.stores, {"delay": traffic.spec}, AT)
    assert [one.model for one in (made.overall, *made.models)] == [ALL_MODELS, "delay", "old"]
    assert values(made.models[0]) == [0.75, 15.0, 120, 300, 3600, 1.0, 3.0, 0.0, 1.0]
    assert values(made.overall) == [0.75, 15.0, 120, 300, 3600, 1.0, 3.0, 0.5, 1.0]


def test_a_model_that_is_not_declared_any_more_keeps_its_releases(traffic: Traffic) -> None:
    made = make_scorecard(traffic.stores, {"delay": traffic.spec}, AT, models=("old",))
    assert values(made.overall) == values(made.models[0]) == [*[None] * 7, 1.0, None]


def test_one_period(traffic: Traffic) -> None:
    made = make_scorecard(traffic.stores, {"delay": traffic.spec}, AT, until=LIVE_FROM + DAY, models=("delay",))
    assert values(made.overall)[:3] == [1.0, 0.0, None]
    assert made.overall.undated == 2


def test_what_comes_later_is_in_the_next_one(traffic: Traffic) -> None:
    specs = {"delay": traffic.spec}
    before = make_scorecard(traffic.stores, specs, AT).overall.figures[0]
    traffic.segment(traffic.prediction(33))
    traffic.take()
    after = make_scorecard(traffic.stores, specs, AT).overall.figures[0]
    assert (before.events, after.events) == (4, 5)


def test_a_model_that_nobody_knows(traffic: Traffic) -> None:
    with pytest.raises(KeyError, match="nothing is known of dely: there are delay, old"):
        make_scorecard(traffic.stores, {"delay": traffic.spec}, AT, models=("dely",))


@pytest.mark.parametrize(
    ("value", "unit", "target", "measured", "wanted"),
    [
        (1.0, "share", AVAILABILITY, "100 %", "≥ 99.95 %"),
        (1 - 1e-9, "share", Target(">=", 1), "99.999 %", "100 %"),
        (0.9995, "share", Target(">", 0.8), "99.95 %", "> 80 %"),
        (0.29, "share", None, "29 %", ""),
        (0.97, "per 30 days", Target("<", 1), "0.97 a month", "< 1 a month"),
        (119.6, "s", Target("<", 300), "120 s", "< 5 min"),
        (150.0, "s", None, "2.5 min", ""),
        (timedelta(hours=30).total_seconds(), "s", None, "30.0 h", ""),
        (timedelta(days=3).total_seconds(), "s", None, "3.0 d", ""),
        (1.5, "windows", None, "1.5 windows", ""),
        (None, "share", AVAILABILITY, "no data", "≥ 99.95 %"),
    ],
)
def test_figures_in_words(value: float | None, unit: Unit, target: Target | None, measured: str, wanted: str) -> None:
    [line] = lines_of(Card("delay", (Figure("availability", value, unit, 3, "requests", target),)))
    assert (line.measured, line.target, line.rests_on) == (measured, wanted, "3 requests")


@pytest.mark.parametrize(
    ("value", "met", "said"), [(1.0, True, "yes"), (0.5, False, "no"), (1.0, None, "too early"), (None, None, "")]
)
def test_whether_a_target_is_met(value: float | None, met: bool | None, said: str) -> None:
    [line] = lines_of(Card("delay", (Figure("availability", value, "share", 3, "requests", AVAILABILITY, met),)))
    assert line.met == said
