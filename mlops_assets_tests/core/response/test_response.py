"""The policy, rule by rule: what is decided, on what evidence, and what never is."""

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.ledger import Rejected
from mlops_assets.core.response import Champion, Signal, policy_of
from mlops_assets_tests.core.response.examples import (
    DAY,
    FIRST,
    Story,
    data_of,
    drift_of,
    former_of,
    key,
    model_of,
    policy,
)


def missing(name: str = "temp") -> dict[str, object]:
    return {
        "broken": (name,),
        "reasons": (f"{name} is missing in 90% of the rows",),
    }


def weather_missing(day: int, verdict: str = "unhealthy"):
    return data_of(day, verdict, 1, drift_of("temp", missing_rate=0.9, alarm=True), **missing())


def drifting(day: int, severity: str = "critical", version: int = 1):
    one = drift_of("temp", severity=severity, alarm=True, reason="temp has moved")
    return data_of(day, "degrading", version, one, drifted=("temp",))


def test_a_healthy_day_asks_for_nothing() -> None:
    response = Story().day()
    assert (response.decision.action, response.facts) == ("none", ())
    assert response.decision.policy == policy_of(policy())


def test_the_same_situation_gives_the_same_response() -> None:
    first, second = Story(), Story()
    assert first.bad_day() == second.bad_day()


def test_looking_again_decides_nothing_new() -> None:
    story = Story()
    story.day(weather_missing(0))
    before = len(story.record.decisions), len(story.record.incidents)
    story.look()
    story.look()
    assert (len(story.record.decisions) - before[0], len(story.record.incidents)) == (
        1,
        before[1],
    )  # imputed, then alert


class TestABrokenFeed:
    def test_is_one_incident_that_is_imputed_and_never_retrained_on(self) -> None:
        story = Story()
        actions = [story.day(weather_missing(day)).decision.action for day in range(10)]
        assert actions[0] == "impute"
        assert set(actions[1:]) == {"alert"}
        (incident,) = story.record.incidents
        assert (incident.cause, incident.times_found, incident.mitigated_at is not None) == ("feed:weather", 10, True)
        assert incident.windows == tuple(key(day) for day in range(10))

    def test_with_bad_values_is_taken_for_missing_until_it_is_sound(self) -> None:
        story = Story()
        bad = {"broken": ("temp",), "reasons": ("temp has 80% of its values outside its declared range",)}
        response = story.day(data_of(0, "unhealthy", 1, drift_of("temp", missing_rate=0.0), **bad))
        assert (response.decision.action, response.decision.details) == ("impute", {"masked": "temp"})
        assert story.record.open_decisions
        story.end(response, "done")
        story.champion = Champion(1, FIRST, 5000, masked=("temp",))
        good = [story.day() for _ in range(3)]
        assert [one.decision.action for one in good] == ["none", "none", "impute"]
        assert good[-1].decision.details == {"masked": ""}
        assert not story.record.open_incidents

    def test_whose_masking_a_person_rejects_is_told_of_and_not_asked_about_again(self) -> None:
        story = Story(policy(actions={"impute": "approve"}))
        bad = {"broken": ("temp",), "reasons": ("temp has 80% of its values outside its declared range",)}
        days = [data_of(day, "unhealthy", 1, drift_of("temp", missing_rate=0.0), **bad) for day in range(3)]
        asked = story.day(days[0])
        assert (asked.decision.action, asked.decision.mode) == ("impute", "approve")
        story.write(asked.decision_id, Rejected("the values are right"))
        later = [story.day(day).decision for day in days[1:]]
        assert [one.action for one in later] == ["alert", "alert"]
        assert "has rejected to impute: the values are right" in later[0].reason

    def test_is_over_after_some_good_windows_in_a_row_only(self) -> None:
        story = Story()
        story.day(weather_missing(0))
        story.day()
        story.day()
        story.day(weather_missing(3))
        story.day()
        story.day()
        assert story.record.open_incidents
        story.day()
        assert not story.record.open_incidents

    def test_is_suspected_when_the_answers_get_worse_in_its_windows(self) -> None:
        story = Story()
        first, second = (story.day(weather_missing(day), model_of(day, decayed=True)).decision for day in range(2))
        assert first.action == "impute"
        assert (second.action, "the feed is the suspect" in second.reason) == ("alert", True)
        assert "retrain" not in {one.what.action for one in story.record.decisions}

    def test_whose_bad_values_make_the_answers_worse_is_masked_all_the_same(self) -> None:
        story = Story()
        bad = {"broken": ("temp",), "reasons": ("temp has 80% of its values outside its declared range",)}
        data = data_of(0, "unhealthy", 1, drift_of("temp", missing_rate=0.0), **bad)
        response = story.day(data, model_of(0, decayed=True))
        assert (response.decision.action, response.decision.details) == ("impute", {"masked": "temp"})

    def test_that_takes_most_of_the_model_with_it_asks_for_the_constant(self) -> None:
        story = Story()
        response = story.day(weather_missing(0, "failed"), model_of(0, decayed=True))
        assert (response.decision.action, response.decision.mode) == ("fall back", "approve")
        story.end(response, "done")
        story.champion = Champion(1, FIRST, 5000, fallen_back=True)
        back = [story.day().decision for _ in range(3)]
        assert [one.action for one in back] == ["none", "none", "fall back"]
        assert back[-1].details == {"to": "champion"}

    def test_that_lasts_is_trained_without_once(self) -> None:
        story = Story(policy(feed_patience="4d"))
        decisions = [story.day(weather_missing(day)).decision for day in range(4)]
        assert {one.action for one in decisions} == {"impute", "alert"}
        response = story.day(weather_missing(4))
        assert (response.decision.action, response.decision.details["without"]) == ("retrain", "temp")
        story.end(response, "done")
        later = [story.day(weather_missing(day)).decision.action for day in range(5, 9)]
        assert set(later) == {"alert"}


class TestDrift:
    def test_that_is_a_warning_alerts_and_trains_nothing(self) -> None:
        story = Story()
        actions = [story.day(drifting(day, "warning")).decision.action for day in range(30)]
        assert set(actions) == {"alert"} or set(actions) == {"observe"}
        assert len(story.record.incidents) == 1

    def test_that_is_critical_and_confirmed_trains_a_candidate(self) -> None:
        story = Story()
        assert story.day(drifting(0)).decision.action != "retrain"
        response = story.day(drifting(1))
        assert (response.decision.action, response.decision.details["trigger"]) == ("retrain", "drift")

    @pytest.mark.parametrize("way", ["alert", "observe"])
    def test_trains_nothing_where_the_policy_says_so(self, way: str) -> None:
        story = Story(policy(on_drift=way))
        assert "retrain" not in {story.day(drifting(day)).decision.action for day in range(10)}

    def test_waits_for_labels_and_for_sound_feeds(self) -> None:
        story = Story(fresh_rows=10)
        assert "retrain" not in {story.day(drifting(day)).decision.action for day in range(5)}

    def test_a_season_of_it_wears_nobody_out(self) -> None:
        """Each candidate that changes nothing doubles the time until the next."""
        story = Story()
        trainings = 0
        for day in range(200):
            response = story.day(drifting(day))
            if response.decision.action == "retrain":
                trainings += 1
                story.end(response, "unchanged")
        assert trainings <= 4
        assert len(story.record.incidents) == 1


class TestDecay:
    def test_goes_back_where_the_former_champion_is_better_on_the_same_rows(self) -> None:
        story = Story()
        story.release(2)
        response = story.bad_day(former=former_of(1, is_better=True))
        assert (response.decision.action, response.decision.details) == (
            "roll back",
            {"version": "1", "instead_of": "2"},
        )
        assert "version 1 is better on the same 100 logged rows" in response.decision.reason
        assert response.decision.incidents == ("delay/performance/1",)

    def test_a_version_that_was_bad_from_the_first_day_is_held_against_the_one_before(self) -> None:
        """It has nothing to decay from: its own reference is as bad as its answers."""
        story = Story()
        story.release(2)

        def worse() -> str:
            number = len(story.data)
            model = model_of(number, 2, former=former_of(1, is_better=True), verdict="degrading")
            return story.day(model=model).decision.action

        assert [worse(), worse()] == ["roll back", "none"]  # by two thirds: one window is enough

    def test_trains_where_both_have_decayed(self) -> None:
        response = Story().bad_day(former=former_of(7, is_better=False))
        assert (response.decision.action, response.decision.mode) == ("retrain", "auto")
        assert response.decision.details == {"as_of": (FIRST + DAY).isoformat(), "trigger": "performance"}

    def test_without_fresh_data_asks_every_registered_version(self) -> None:
        story = Story(fresh_rows=10)
        response = story.bad_day()
        assert response.asks_for_rivals
        story.rivals = (former_of(4, is_better=True),)
        assert story.look().decision.details == {"version": "4", "instead_of": "1"}

    def test_without_fresh_data_or_a_better_version_waits(self) -> None:
        story = Story(fresh_rows=10, rivals=(former_of(4, is_better=False),))
        response = story.bad_day()
        assert response.decision.action == "alert"
        assert "waiting for data" in response.decision.reason

    def test_of_a_version_that_answers_no_more_is_past(self) -> None:
        story = Story()
        story.champion = Champion(2, FIRST, 5000)
        response = story.day(model=model_of(0, version=1, decayed=True))
        assert response.decision.action == "none"

    def test_is_not_shown_by_one_window_alone(self) -> None:
        response = Story().bad_day(verdict="degrading")
        assert response.decision.action == "none"

    def test_trains_again_after_the_cooldown_only(self) -> None:
        story = Story(policy(cooldown="10d"))
        response = story.bad_day()
        story.end(response, "refused")
        days = [story.bad_day() for _ in range(10)]
        assert [one.decision.action for one in days[:9]] == ["alert"] * 9
        assert days[9].decision.action == "retrain"

    def test_a_refused_candidate_gets_a_longer_window_and_in_the_end_a_person(self) -> None:
        spec = policy(cooldown="2d", max_refusals=2)
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"window": timedelta(days=20)})})
        story = Story(spec)
        seen = []
        for _ in range(12):
            response = story.bad_day()
            if response.decision.action == "retrain":
                seen.append(response.decision.details.get("window"))
                story.end(response, "refused")
        assert seen == [None, "30d"]
        actions = [one.what.action for one in story.record.decisions]
        assert actions.count("escalate") == 1

    def test_a_second_rollback_within_the_cooldown_freezes_and_restores(self) -> None:
        story = Story()
        story.release(1)
        story.day()
        story.release(2)
        first = story.bad_day(former=former_of(1, is_better=True))
        story.end(first, "done")
        story.release(3)
        second = story.bad_day(former=former_of(2, is_better=True))
        assert second.decision.action == "freeze"
        assert "second rollback" in second.decision.reason

    def test_goes_on_while_the_new_champion_is_not_as_good_as_it_was_before(self) -> None:
        """A version trained in the middle of a change is judged on that change, and expects little of itself."""
        story = Story(policy(cooldown="20d"))
        story.end(story.bad_day(), "done")
        story.release(2)

        def still_bad() -> str:
            model = model_of(len(story.data), 2)
            assert model.performance is not None
            report = msgspec.structs.replace(model.performance, value=0.2, expected=0.2)
            response = story.day(model=msgspec.structs.replace(model, performance=report))
            if response.decision.action == "retrain":
                story.end(response, "done")
            return response.decision.action

        actions = [still_bad() for _ in range(80)]
        assert story.record.open_incidents
        trained = [day for day, action in enumerate(actions, 1) if action == "retrain"]
        assert trained == [10, 30, 70], "after half a cooldown, one, two"

    def test_is_over_when_the_new_champion_is_good_for_some_windows(self) -> None:
        story = Story()
        story.end(story.bad_day(), "done")
        story.release(2)
        for _ in range(3):
            story.day()
        assert not story.record.open_incidents


class TestPeople:
    def test_who_must_be_asked_is_asked_once(self) -> None:
        story = Story(policy(actions={"retrain": "approve"}))
        assert story.bad_day().decision.mode == "approve"
        assert {story.bad_day().decision.action for _ in range(5)} == {"none"}
        assert len(story.record.open_decisions) == 1

    def test_what_is_off_is_not_done(self) -> None:
        story = Story(policy(actions={"retrain": "off", "rollback": "off", "impute": "off"}))
        story.release(2)
        assert story.bad_day(former=former_of(1, is_better=True)).decision.action == "alert"
        assert story.day(weather_missing(1)).decision.action == "alert"

    def test_frozen_and_retired_models_are_left_alone_but_watched(self) -> None:
        story = Story()
        story.freeze()
        assert story.bad_day().decision.action == "none"
        assert story.record.open_incidents
        story.thaw()
        assert story.bad_day().decision.action == "retrain"
        other = Story()
        other.retire()
        assert other.bad_day().decision.action == "none"

    def test_three_critical_incidents_in_a_day_stop_all_automation(self) -> None:
        story = Story()
        story.day()
        for cause in ("service", "run:lifecycle", "monitor:failing"):
            story.incident(cause)
        response = story.look()
        assert response.decision.action == "freeze"
        story.end(response, "done")
        story.freeze()
        story.thaw()
        assert story.look().decision.action != "freeze"


def test_a_monitor_in_trouble_is_an_incident_that_ends_with_it() -> None:
    story = Story(signals=(Signal("labels", "labels dry up", grave=False),))
    assert story.day().decision.action == "alert"
    assert [one.cause for one in story.record.open_incidents] == ["monitor:labels"]
    story.signals = ()
    story.day()
    assert not story.record.open_incidents


DAYS = st.lists(st.sampled_from(["good", "decayed", "drift", "missing", "failed"]), min_size=1, max_size=25)


@given(DAYS)
def test_whatever_happens_one_thing_is_done_at_a_time_and_one_incident_is_open_for_each_cause(days: list[str]) -> None:
    story = Story()
    for number, kind in enumerate(days):
        data = {"drift": drifting, "missing": weather_missing}.get(kind, lambda day: None)(number)
        if kind == "failed":
            data = weather_missing(number, "failed")
        story.day(data, model_of(number, decayed=kind in ("decayed", "failed")))
        assert len(story.record.open_decisions) <= 1
        causes = [one.cause for one in story.record.open_incidents]
        assert len(causes) == len(set(causes))
        newest = story.record.decisions[-1].what
        if newest.window == key(number) and story.data[-1].broken:
            assert newest.details.get("trigger") != "performance", "never on the bad rows"
