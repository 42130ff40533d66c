"""What share of the requests was touched: callers and log are asked alike, and a canary may touch what was declared."""

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.records import PredictionRecord, Role
from mlops_assets.core.rollout import Split
from mlops_assets.drills.caller import Acknowledged, Asked, Outcome
from mlops_assets.drills.touched import Touched, most_by_chance, touched

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
GOOD, BAD = 1, 2


class Said:
    """What callers were told and what was logged, a second apart."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.acknowledged: list[Acknowledged] = []
        self.logged: list[PredictionRecord] = []

    def answered(self, version: int, *, logged: int | None = None, role: Role = "champion") -> "Said":
        number = self._ask("answered")
        at = self.asked[-1].at
        self.acknowledged.append(Acknowledged(number, "delay", version, 1, role, (0.5,), at))
        return self._log(number, logged or version, role)

    def told(self, outcome: Outcome, status: int | None) -> "Said":
        number = self._ask(outcome)
        return self if status is None else self._log(number, GOOD, "champion", status)

    def count(self, seconds: float = 1e6, share: float | None = None) -> Touched:
        between = NOON, NOON + timedelta(seconds=seconds)
        return touched(self.asked, self.acknowledged, self.logged, {BAD}, between, share)

    def _ask(self, outcome: Outcome) -> str:
        number = len(self.asked)
        at = NOON + timedelta(seconds=number)
        self.asked.append(Asked(f"r{number}", f"E{number}", at, outcome))
        return f"r{number}"

    def _log(self, number: str, version: int, role: Role, status: int = 200) -> "Said":
        self.logged.append(
            PredictionRecord(number, "delay", version, "sha256:x", 1, "r", role, NOON, NOON, status=status)
        )
        return self


def test_answers_of_a_bad_version_and_those_that_never_came_are_counted():
    said = Said().answered(GOOD).answered(BAD, role="challenger").told("refused", None).told("failed", 500)
    said.told("unanswered", 200).told("unanswered", None).answered(GOOD).answered(GOOD)
    found = said.count()
    assert (found.requests, found.touched, found.logged, found.faults) == (8, 5, 5, ())
    assert found.told == "touched: 62.5 % of 8 requests"


def test_what_ended_before_and_after_does_not_count():
    said = Said().answered(GOOD).answered(BAD).answered(BAD)
    assert said.count(seconds=1.5).requests == 2


def test_neither_shadows_nor_probes_touch_anybody():
    said = Said().answered(GOOD)
    said._log("r0", BAD, "shadow")
    said.logged.append(msgspec.structs.replace(said.logged[0], version=BAD, probe=True))
    assert (said.count().touched, said.count().logged) == (0, 0)


@pytest.mark.parametrize(
    ("said", "who"),
    [
        (Said().answered(GOOD, logged=BAD), "the log"),
        (Said().answered(BAD, logged=GOOD), "its caller"),
        (Said().told("failed", 200), "its caller"),
    ],
)
def test_callers_and_the_log_must_say_the_same(said: Said, who: str):
    found = said.count()
    assert found.contradictions == 1
    assert found.faults[0] == f"r0: touched by what {who} says alone"


def test_more_than_a_canary_may_touch_is_a_fault():
    said = Said()
    for _ in range(100):
        said.answered(GOOD)
    assert not said.count(share=0.05).faults
    for _ in range(25):
        said.answered(BAD, role="challenger")
    found = said.count(share=0.05)
    assert found.share == 0.2
    assert found.faults[0].startswith("touched: 20.0 % of 125 requests; at most ")


def test_nobody_may_be_touched_where_nothing_is_declared_to_be():
    assert not Said().answered(GOOD).count(share=0.0).faults
    assert Said().answered(BAD).count(share=0.0).faults


@given(st.lists(st.integers(1, 30), min_size=1, max_size=200), st.floats(0.01, 0.5))
def test_the_bound_lies_above_the_share(weights: list[int], share: float):
    many = [f"E{number}" for number, weight in enumerate(weights) for _ in range(weight)]
    assert share < most_by_chance(share, many) <= 1


def test_an_entity_that_asks_again_tells_nothing_new():
    each_once = [f"E{number}" for number in range(500)]
    assert most_by_chance(0.05, each_once * 7) == most_by_chance(0.05, each_once)
    assert most_by_chance(0.05, [*each_once, *["E0"] * 500]) > most_by_chance(0.05, each_once)


def test_real_splits_of_entities_that_ask_several_times_stay_below_the_bound():
    random = np.random.default_rng(1)
    weights = random.integers(1, 7, 400)
    entities = np.repeat([f"E{number}" for number in range(400)], weights).tolist()
    most = most_by_chance(0.05, entities)
    for salt in range(300):
        split = Split(f"{salt}", 0.05)
        assert np.mean([split(one) for one in entities]) <= most
