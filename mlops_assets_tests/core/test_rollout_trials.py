"""The steps of a trial, from the first shadow to the day on which the standby is let go."""

from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest

from mlops_assets.core.rollout import (
    BreakerLimits,
    Challenger,
    ReleasePlan,
    Standby,
    dismissed,
    falling_back,
    forcing,
    masking,
    promoted,
    promotion,
    retirement,
    reversal,
    rollback,
    settled,
    trial,
    widened,
)
from mlops_assets_tests.core.test_rollout import LATER, entrant, origin, promote, release, two

UNTIL = LATER + timedelta(days=7)


def on_trial(share: float = 0.1, mode: str = "canary", version: int = 7) -> ReleasePlan:
    return trial(two(), entrant(version), mode, share, origin("r-trial"), "pepper")  # type: ignore[arg-type]


Step = Callable[[ReleasePlan], ReleasePlan]
STEPS: dict[str, Step] = {
    "trial": lambda plan: trial(plan, entrant(7), "canary", 0.2, origin(), "pepper"),
    "widened": lambda plan: widened(plan, 0.5, origin()),
    "promoted": lambda plan: promoted(plan, entrant(7), UNTIL, origin()),
    "dismissed": lambda plan: dismissed(plan, origin(), withdraw=False),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_each_step_follows_the_plan_in_force_and_says_where_it_comes_from(step: Step) -> None:
    plan = masking(on_trial(), ["wind"], origin())
    after = step(plan)
    assert (after.release, after.previous) == (plan.release + 1, plan.release)
    assert (after.rollout, after.reason, after.decided_by) == ("d-1", "it answers nonsense", "sensor:rollout")
    assert after.masked == ("wind",), "a broken feed is as broken for the next version"
    assert after.salt == "pepper"


@pytest.mark.parametrize("name", [*STEPS, "settled"])
def test_what_is_retired_is_put_to_no_trial(name: str) -> None:
    plan = retirement(on_trial(), "nobody asks", origin())
    with pytest.raises(ValueError, match=r"out of service|nothing is on trial|no standby"):
        {**STEPS, "settled": lambda plan: settled(plan, origin())}[name](plan)


@pytest.mark.parametrize("name", ["trial", "widened", "promoted"])
def test_a_model_that_answers_with_its_constant_is_put_to_no_trial(name: str) -> None:
    with pytest.raises(ValueError, match=r"answers with its constant since release .* recover it first"):
        STEPS[name](falling_back(on_trial(), origin()))


class TestTrial:
    def test_the_champion_stays_and_a_challenger_comes_in_beside_it(self) -> None:
        plan = on_trial(0.25, "shadow")
        assert plan.challenger == Challenger(7, release(7).bundle, "shadow", 0.25)
        assert (plan.champion, plan.last_good, plan.as_of) == (release(6), release(4), two().as_of)

    def test_from_the_shadow_it_comes_before_callers(self) -> None:
        plan = trial(on_trial(1.0, "shadow"), entrant(7), "canary", 0.05, origin(), "another")
        assert plan.challenger == Challenger(7, release(7).bundle, "canary", 0.05)
        assert plan.salt == "another"

    def test_a_standby_goes_on_standing_by(self) -> None:
        standby = Standby(4, release(4).bundle, UNTIL)
        plan = trial(msgspec.structs.replace(two(), standby=standby), entrant(7), "shadow", 1, origin(), "s")
        assert plan.standby == standby

    @pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan"), float("inf")])
    def test_what_is_no_share_is_refused(self, share: float) -> None:
        with pytest.raises(ValueError, match="is no share of the requests: choose one above 0, up to 1"):
            on_trial(share)

    def test_one_version_at_a_time_is_on_trial(self) -> None:
        with pytest.raises(ValueError, match="version 7 is on trial in release 3; dismiss or promote it first"):
            trial(on_trial(), entrant(8), "shadow", 1, origin(), "s")

    def test_neither_the_champion_nor_what_was_withdrawn_is_tried(self) -> None:
        with pytest.raises(ValueError, match="version 6 is the champion of release 2"):
            trial(two(), entrant(6), "shadow", 1, origin(), "s")
        with pytest.raises(ValueError, match="version 6 was withdrawn and never returns"):
            trial(rollback(two(), entrant(4), origin()), entrant(6), "shadow", 1, origin(), "s")

    def test_a_salt_that_no_hash_takes_is_refused(self) -> None:
        with pytest.raises(ValueError, match="longer than 64 bytes"):
            trial(two(), entrant(7), "shadow", 1, origin(), "s" * 65)


class TestWidened:
    def test_the_share_alone_changes(self) -> None:
        plan = on_trial(0.1)
        after = widened(plan, 0.5, origin())
        assert after.challenger == msgspec.structs.replace(plan.challenger, share=0.5)  # type: ignore[type-var]
        assert after.salt == plan.salt, "whoever was in the smaller share stays in the larger one"

    @pytest.mark.parametrize("share", [0.1, 0.05])
    def test_a_share_that_is_no_larger_is_refused(self, share: float) -> None:
        with pytest.raises(ValueError, match=f"has a share of 0.1 in release 3; {share:g} is no larger one"):
            widened(on_trial(0.1), share, origin())

    def test_without_a_trial_there_is_nothing_to_widen(self) -> None:
        with pytest.raises(ValueError, match="nothing is on trial in release 2"):
            widened(two(), 0.5, origin())


class TestPromoted:
    def test_the_challenger_takes_over_and_the_former_champion_stands_by(self) -> None:
        after = promoted(on_trial(), entrant(7, fallback_value=0.3, as_of=LATER), UNTIL, origin())
        assert (after.champion, after.challenger, after.last_good) == (release(7), None, release(6))
        assert after.standby == Standby(6, release(6).bundle, UNTIL)
        assert (after.fallback_value, after.as_of, after.withdrawn) == (0.3, LATER, ())

    def test_a_version_that_was_on_no_trial_may_take_over_too(self) -> None:
        after = promoted(two(), entrant(7), UNTIL, origin())
        assert (after.champion, after.standby) == (release(7), Standby(6, release(6).bundle, UNTIL))

    def test_what_was_forced_into_service_does_not_stand_by(self) -> None:
        after = promoted(forcing(two(), entrant(9), origin()), entrant(10), UNTIL, origin())
        assert after.standby == Standby(6, release(6).bundle, UNTIL)
        assert after.last_good == release(6)
        assert not after.forced
        first = msgspec.structs.replace(promote(None, 4), forced=True)
        assert promoted(first, entrant(10), UNTIL, origin()).standby is None

    def test_features_stay_masked_where_the_new_version_has_them(self) -> None:
        plan = masking(on_trial(), ["wind", "temp"], origin())
        assert promoted(plan, entrant(7, features=("wind",)), UNTIL, origin()).masked == ("wind",)

    def test_another_than_the_one_on_trial_or_the_champion_itself_does_not_take_over(self) -> None:
        with pytest.raises(ValueError, match="version 7 is on trial in release 3, not version 8; dismiss it first"):
            promoted(on_trial(), entrant(8), UNTIL, origin())
        with pytest.raises(ValueError, match="version 6 is the champion"):
            promoted(two(), entrant(6), UNTIL, origin())
        with pytest.raises(ValueError, match="version 7 was withdrawn"):
            promoted(dismissed(on_trial(), origin(), withdraw=True), entrant(7), UNTIL, origin())

    def test_the_way_back_from_there_is_a_rollback_to_the_standby(self) -> None:
        after = promoted(on_trial(), entrant(7), UNTIL, origin())
        back = rollback(after, entrant(6), origin(), last_good=release(4))
        assert (back.champion, back.standby, back.challenger, back.withdrawn) == (release(6), None, None, (7,))


class TestDismissed:
    def test_everything_else_stays(self) -> None:
        before = two()
        after = dismissed(on_trial(), origin(), withdraw=False)
        assert (after.challenger, after.withdrawn) == (None, ())
        assert (after.champion, after.last_good, after.standby) == (before.champion, before.last_good, before.standby)

    def test_it_may_never_return_in_any_role(self) -> None:
        plan = msgspec.structs.replace(
            on_trial(version=4), standby=Standby(4, release(4).bundle, UNTIL), last_good=release(4)
        )
        after = dismissed(plan, origin(), withdraw=True)
        assert (after.withdrawn, after.standby, after.last_good) == ((4,), None, None)

    def test_without_a_trial_there_is_nothing_to_dismiss(self) -> None:
        with pytest.raises(ValueError, match="nothing is on trial"):
            dismissed(two(), origin(), withdraw=False)


class TestSettled:
    def test_the_standby_goes_and_its_version_stays_the_one_to_go_back_to(self) -> None:
        after = settled(promoted(on_trial(), entrant(7), UNTIL, origin()), origin())
        assert (after.standby, after.champion, after.last_good) == (None, release(7), release(6))

    def test_without_a_standby_there_is_nothing_to_settle(self) -> None:
        with pytest.raises(ValueError, match="has no standby to let go"):
            settled(two(), origin())


class TestReversal:
    def test_a_trial_that_was_taken_back_leaves_no_trace_but_what_never_returns(self) -> None:
        before = two()
        tried = trial(before, entrant(7), "canary", 0.1, origin(), "pepper")
        after = reversal(tried, before, origin(), withdraw=True)
        assert (after.challenger, after.salt, after.withdrawn) == (None, before.salt, (7,))
        assert reversal(tried, before, origin()).withdrawn == ()

    def test_a_challenger_that_could_not_take_over_is_on_trial_again(self) -> None:
        before = on_trial()
        after = reversal(promoted(before, entrant(7), UNTIL, origin()), before, origin(), withdraw=True)
        assert (after.challenger, after.champion, after.withdrawn) == (before.challenger, release(6), ())


def test_the_limits_of_the_breaker_go_from_plan_to_plan_until_others_are_declared() -> None:
    limits = BreakerLimits(latency_ms=20.0)
    first = promotion(None, entrant(4), origin(), model="delay", salt="s", breaker=limits)
    assert promoted(first, entrant(6), UNTIL, origin()).breaker == limits
    assert promote(first, 6).breaker == limits
    assert msgspec.json.decode(msgspec.json.encode(first), type=ReleasePlan) == first
    again = promotion(first, entrant(6), origin(), model="delay", salt="s", breaker=BreakerLimits())
    assert again.breaker is None
    assert b"breaker" not in msgspec.json.encode(again), "what says nothing new is read by older programs"
