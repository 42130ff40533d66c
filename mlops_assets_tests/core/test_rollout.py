from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from mlops_assets.core.rollout import (
    Challenger,
    Entrant,
    Origin,
    Release,
    ReleasePlan,
    Standby,
    champion_before,
    falling_back,
    forcing,
    former_champions,
    masking,
    outcome_of,
    promoted,
    promotion,
    recovering,
    retirement,
    reversal,
    rollback,
    trial,
)

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)


def release(version: int) -> Release:
    return Release(version, f"sha256:{version:064x}")


def entrant(version: int, features: tuple[str, ...] = ("temp", "wind"), **changes: Any) -> Entrant:
    given = {"release": release(version), "features": features, "fallback_value": 0.24, "as_of": NOON}
    return Entrant(**{**given, **changes})


def origin(rollout: str = "d-1", at: datetime = LATER) -> Origin:
    return Origin(rollout, "it answers nonsense", "sensor:rollout", at)


def promote(current: ReleasePlan | None, version: int, **changes: Any) -> ReleasePlan:
    return promotion(
        current, entrant(version, **changes), origin(f"r-{version}", NOON), model="delay", salt=f"salt {version}"
    )


def two() -> ReleasePlan:
    return promote(promote(None, 4), 6)


def with_trials(plan: ReleasePlan) -> ReleasePlan:
    return msgspec.structs.replace(
        plan,
        challenger=Challenger(5, release(5).bundle, "canary", 0.1),
        standby=Standby(3, release(3).bundle, LATER),
    )


Step = Callable[[ReleasePlan], ReleasePlan]
STEPS: dict[str, Step] = {
    "promotion": lambda plan: promote(plan, 9),
    "forcing": lambda plan: forcing(plan, entrant(9), origin()),
    "rollback": lambda plan: rollback(plan, entrant(2), origin()),
    "masking": lambda plan: masking(plan, ["wind"], origin()),
    "falling back": lambda plan: falling_back(plan, origin()),
    "retirement": lambda plan: retirement(plan, "nobody asks", origin()),
    "recovering": lambda plan: recovering(msgspec.structs.replace(plan, fallen_back=True), origin()),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_each_step_follows_the_plan_in_force_and_says_where_it_comes_from(step: Step) -> None:
    plan = two()
    after = step(plan)
    assert (after.release, after.previous, after.model) == (3, 2, "delay")
    if after.rollout != "r-9":
        assert (after.rollout, after.reason, after.decided_by) == ("d-1", "it answers nonsense", "sensor:rollout")
        assert after.decided_at == LATER
        assert after.salt == plan.salt


@pytest.mark.parametrize("name", sorted(set(STEPS) - {"masking", "recovering"}))
def test_a_step_that_changes_who_answers_ends_all_trials(name: str) -> None:
    after = STEPS[name](with_trials(two()))
    assert (after.challenger, after.standby) == (None, None)


@pytest.mark.parametrize("name", ["masking", "recovering"])
def test_a_step_that_changes_nothing_of_who_answers_leaves_trials_alone(name: str) -> None:
    plan = with_trials(two())
    after = STEPS[name](plan)
    assert (after.challenger, after.standby) == (plan.challenger, plan.standby)


class TestPromotion:
    def test_the_first_plan_follows_nothing(self) -> None:
        plan = promote(None, 4)
        assert (plan.release, plan.previous, plan.champion, plan.last_good) == (1, 0, release(4), None)
        assert (plan.challenger, plan.standby, plan.withdrawn) == (None, None, ())
        assert (plan.masked, plan.fallen_back, plan.retired, plan.forced) == ((), False, None, False)

    def test_it_remembers_the_former_champion(self) -> None:
        plan = two()
        assert (plan.champion, plan.last_good) == (release(6), release(4))

    def test_it_ends_a_fallback_and_a_retirement(self) -> None:
        fallen = falling_back(two(), origin())
        after = promote(retirement(fallen, "no use", origin()), 7)
        assert (after.fallen_back, after.retired, after.forced) == (False, None, False)
        assert after.last_good == release(4), "the version that was given up is not to go back to"

    def test_features_without_a_trusted_feed_stay_masked_where_the_new_version_has_them(self) -> None:
        masked = masking(two(), ["wind", "temp"], origin())
        assert promote(masked, 7).masked == ("temp", "wind")
        assert promote(masked, 7, features=("temp",)).masked == ("temp",)

    def test_it_brings_its_own_constant_and_moment(self) -> None:
        after = promote(two(), 7, fallback_value=0.5, as_of=LATER)
        assert (after.fallback_value, after.as_of) == (0.5, LATER)

    def test_a_withdrawn_version_never_returns(self) -> None:
        plan = rollback(two(), entrant(4), origin())
        for again in (lambda: promote(plan, 6), lambda: forcing(plan, entrant(6), origin())):
            with pytest.raises(ValueError, match="'delay': version 6 was withdrawn and never returns; train a new one"):
                again()
        assert promote(plan, 7).withdrawn == (6,)


class TestForcing:
    def test_it_is_told_and_what_served_before_is_what_to_go_back_to(self) -> None:
        plan = forcing(two(), entrant(9), origin())
        assert (plan.champion, plan.forced, plan.last_good) == (release(9), True, release(6))

    def test_a_version_that_was_forced_is_none_to_go_back_to(self) -> None:
        forced = forcing(two(), entrant(9), origin())
        assert forcing(forced, entrant(10), origin()).last_good == release(6)
        after = promote(forced, 11)
        assert (after.last_good, after.forced) == (release(6), False)

    def test_the_same_version_again_is_none_to_go_back_to_either(self) -> None:
        assert forcing(two(), entrant(6), origin()).last_good == release(4)
        assert forcing(two(), entrant(4), origin()).last_good == release(6)


class TestRollback:
    def test_the_earlier_version_serves_and_the_former_champion_never_returns(self) -> None:
        plan = rollback(two(), entrant(4, fallback_value=0.3, as_of=LATER), origin(), last_good=release(2))
        assert (plan.champion, plan.last_good, plan.withdrawn) == (release(4), release(2), (6,))
        assert (plan.fallback_value, plan.as_of) == (0.3, LATER)

    def test_the_former_champion_may_be_spared(self) -> None:
        assert rollback(two(), entrant(4), origin(), withdraw=False).withdrawn == ()

    def test_it_ends_a_fallback_and_what_was_forced(self) -> None:
        plan = falling_back(forcing(two(), entrant(9), origin()), origin())
        after = rollback(plan, entrant(4), origin())
        assert (after.fallen_back, after.forced, after.withdrawn) == (False, False, (9,))

    def test_it_keeps_masked_what_the_earlier_version_has(self) -> None:
        plan = masking(two(), ["wind", "temp"], origin())
        assert rollback(plan, entrant(4, features=("wind",)), origin()).masked == ("wind",)

    def test_it_goes_neither_to_the_champion_nor_to_what_was_withdrawn(self) -> None:
        with pytest.raises(ValueError, match="version 6 is the champion of release 2"):
            rollback(two(), entrant(6), origin())
        back = rollback(two(), entrant(4), origin())
        with pytest.raises(ValueError, match="version 6 was withdrawn"):
            rollback(back, entrant(6), origin())


class TestMasking:
    def test_the_features_given_are_masked_and_no_others(self) -> None:
        plan = masking(two(), ["wind", "temp", "wind"], origin())
        assert plan.masked == ("temp", "wind")
        assert plan.champion == release(6)
        assert masking(plan, [], origin()).masked == ()


class TestFallingBackAndRecovering:
    def test_a_fallback_changes_only_who_answers_and_is_ended_by_recovering(self) -> None:
        plan = masking(two(), ["wind"], origin())
        fallen = falling_back(plan, origin())
        assert (fallen.fallen_back, fallen.champion, fallen.masked) == (True, release(6), ("wind",))
        assert fallen.last_good == release(4)
        again = recovering(fallen, origin())
        assert (again.fallen_back, again.champion, again.masked) == (False, release(6), ("wind",))

    def test_without_a_constant_there_is_nothing_to_fall_back_to(self) -> None:
        with pytest.raises(ValueError, match="has no fallback value; roll back instead"):
            falling_back(promote(None, 4, fallback_value=None), origin())

    def test_what_answers_needs_no_recovery(self) -> None:
        with pytest.raises(ValueError, match="there is nothing to recover"):
            recovering(two(), origin())


class TestRetirement:
    def test_it_keeps_everything_but_the_service(self) -> None:
        plan = retirement(masking(two(), ["wind"], origin()), "nobody asks", origin())
        assert (plan.retired, plan.champion, plan.masked) == ("nobody asks", release(6), ("wind",))
        assert recovering(plan, origin()).retired is None

    @pytest.mark.parametrize("name", ["rollback", "masking", "falling back"])
    def test_what_is_retired_is_left_alone(self, name: str) -> None:
        plan = retirement(two(), "nobody asks", origin())
        with pytest.raises(ValueError, match=r"out of service .*nobody asks.*recover it first"):
            STEPS[name](plan)


class TestReversal:
    def test_everything_is_again_as_it_was(self) -> None:
        before = falling_back(masking(forcing(two(), entrant(9), origin()), ["wind"], origin()), origin("d-0"))
        tried = rollback(before, entrant(4), origin())
        after = reversal(tried, before, origin("ignored"))
        assert (after.release, after.previous, after.rollout) == (tried.release + 1, tried.release, "d-0")
        said = {"release", "previous", "reason", "decided_by", "decided_at"}
        for field in set(before.__struct_fields__) - said:
            assert getattr(after, field) == getattr(before, field), field

    def test_what_was_tried_never_returns_where_that_is_wanted(self) -> None:
        before = two()
        assert reversal(promote(before, 7), before, origin(), withdraw=True).withdrawn == (7,)
        masked = masking(before, ["wind"], origin())
        assert reversal(masked, before, origin(), withdraw=True).withdrawn == ()


class TestHistory:
    def test_who_could_be_gone_back_to(self) -> None:
        history = [promote(None, 1)]
        history.append(promote(history[-1], 2))
        history.append(masking(history[-1], ["wind"], origin("d-m")))
        history.append(promote(history[-1], 3))
        history.append(forcing(history[-1], entrant(9), origin("d-f")))
        assert former_champions(history) == (release(3), release(2), release(1))
        history.append(rollback(history[-1], entrant(2), origin("d-r")))
        assert former_champions(history) == (release(3), release(1))
        assert former_champions(history[:1]) == former_champions([]) == ()

    def test_what_an_attempt_has_released_is_not_the_champion_to_beat(self) -> None:
        def by(plan: ReleasePlan, who: str) -> ReleasePlan:
            return msgspec.structs.replace(plan, decided_by=who)

        assert champion_before([], {"run:1"}) is None
        history = [by(promote(None, 1), "run:0")]
        assert champion_before(history, ()) == champion_before(history, {"run:1"}) == release(1)
        assert champion_before(history, {"run:0"}) is None
        history.append(by(trial(history[-1], entrant(2), "shadow", 1.0, origin("r-2"), "salt"), "run:1"))
        assert champion_before(history, {"run:1"}) == release(1)
        history.append(by(promoted(history[-1], entrant(2), LATER, origin("r-2 up")), "sensor:rollout"))
        history.append(masking(history[-1], ["wind"], origin("d-m")))
        assert champion_before(history, {"run:3"}) == release(2)
        assert champion_before(history, {"run:1", "run:3"}) == release(1)
        history.append(by(promote(history[-1], 3), "run:3"))
        assert champion_before(history, {"run:1", "run:3"}) == release(1)
        history.append(by(reversal(history[-1], history[-2], origin("r-3")), "run:3"))
        assert champion_before(history, {"run:3"}) == release(2), "it was taken back"

    def test_what_became_of_a_decision(self) -> None:
        first, second = promote(None, 4), two()
        assert outcome_of([], "d-1") == (None, False)
        assert outcome_of([first, second], "d-1") == (None, False)
        tried = rollback(second, entrant(4), origin("d-1"))
        assert outcome_of([first, second, tried], "d-1") == (tried, False)
        back = reversal(tried, second, origin())
        assert outcome_of([first, second, tried, back], "d-1") == (tried, True)
        assert outcome_of([first, second, tried, back], "r-6") == (back, False)
        later = masking(tried, ["wind"], origin("d-2"))
        assert outcome_of([first, second, tried, later], "d-1") == (tried, False)


def test_a_plan_reads_back_from_json_and_refuses_what_it_does_not_know() -> None:
    plan = promote(promote(None, 4), 6, fallback_value="late")
    encoded = msgspec.json.encode(plan)
    assert msgspec.json.decode(encoded, type=ReleasePlan) == plan
    strange = {**msgspec.json.decode(encoded), "colour": "red"}
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert(strange, ReleasePlan)
    with pytest.raises(AttributeError):
        plan.release = 9  # type: ignore[misc]


def test_plans_of_before_there_were_masks_are_read_and_written_as_they_were() -> None:
    """A program that knows nothing of them reads every plan that needs nothing of them."""
    written = msgspec.json.decode(msgspec.json.encode(two()))
    assert not {"masked", "fallen_back", "retired", "forced"} & written.keys()
    everything = retirement(masking(forcing(two(), entrant(9), origin()), ["wind"], origin()), "gone", origin())
    assert msgspec.json.decode(msgspec.json.encode(everything), type=ReleasePlan) == everything
