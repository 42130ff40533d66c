from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.sequential import PROMOTES, ROLLS_BACK, Limits, Outcome, Verdict, outcome
from mlops_assets.core.sequential.verdicts import judge

LIMITS = Limits(alpha=0.05, beta=0.1, minimum=100, maximum=1000)
NOTHING, MUCH = 0.0, 10.0
VERDICTS: list[Verdict] = ["continue", "not worse", "better", "worse", "not better", "inconclusive"]


@pytest.mark.parametrize(
    ("samples", "against", "in_favour", "said"),
    [
        (500, NOTHING, NOTHING, "continue"),
        (500, MUCH, NOTHING, "worse"),
        (500, NOTHING, MUCH, "not worse"),
        (99, MUCH, NOTHING, "continue"),
        (99, NOTHING, MUCH, "continue"),
        (1000, NOTHING, NOTHING, "inconclusive"),
        (1000, MUCH, NOTHING, "worse"),
        (2000, NOTHING, MUCH, "not worse"),
        (500, MUCH, MUCH, "worse"),
        (500, NOTHING, None, "continue"),
    ],
)
def test_verdict_of_a_first_look(samples: int, against: float, in_favour: float | None, said: Verdict) -> None:
    assert judge("continue", samples, against, in_favour, LIMITS) == said


def test_bounds_are_those_of_ville() -> None:
    """At 1/alpha and 1/beta, so that the error rates hold exactly and not only nearly, as with Wald's."""
    assert judge("continue", 500, 2.9957, NOTHING, LIMITS) == "continue"
    assert judge("continue", 500, 2.9958, NOTHING, LIMITS) == "worse"
    assert judge("continue", 500, NOTHING, 2.3025, LIMITS) == "continue"
    assert judge("continue", 500, NOTHING, 2.3026, LIMITS) == "not worse"


def test_a_test_for_better_says_so() -> None:
    better = msgspec.structs.replace(LIMITS, aim="better")
    assert judge("continue", 500, NOTHING, MUCH, better) == "better"
    assert judge("continue", 500, MUCH, NOTHING, better) == "not better"


@pytest.mark.parametrize("said", ["worse", "not better", "inconclusive"])
def test_a_roll_back_and_the_maximum_are_final(said: Verdict) -> None:
    assert judge(said, 5000, NOTHING, MUCH, LIMITS) == said


def test_a_promotion_holds_until_the_evidence_turns() -> None:
    assert judge("not worse", 5000, NOTHING, NOTHING, LIMITS) == "not worse"
    assert judge("not worse", 5000, MUCH, NOTHING, LIMITS) == "worse"


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 0.5}, {"beta": 1.0}, {"minimum": -1}, {"maximum": 0}])
def test_limits_that_decide_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"error rate|cannot decide"):
        Limits(**wrong)


@pytest.mark.parametrize(
    ("deciding", "alarms", "done"),
    [
        (["not worse", "better"], ["continue"], "promote"),
        (["not worse", "continue"], [], "continue"),
        (["not worse", "inconclusive"], [], "inconclusive"),
        (["continue", "inconclusive"], [], "inconclusive"),
        (["worse", "inconclusive"], [], "roll back"),
        (["not worse"], ["worse"], "roll back"),
        ([], ["continue"], "continue"),
        ([], [], "continue"),
    ],
)
def test_outcome_of_several(deciding: list[Verdict], alarms: list[Verdict], done: Outcome) -> None:
    assert outcome(deciding, alarms) == done


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(VERDICTS), min_size=1))
def test_only_a_unanimous_yes_promotes(verdicts: list[Verdict]) -> None:
    assert (outcome(verdicts) == "promote") == all(one in PROMOTES for one in verdicts)
    assert (outcome(verdicts) == "roll back") == any(one in ROLLS_BACK for one in verdicts)
