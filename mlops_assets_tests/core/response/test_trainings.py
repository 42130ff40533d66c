"""How the policy takes what becomes of a version in its trial: held while it is tried, refused where it was dismissed."""

from datetime import timedelta
from typing import Any

import pytest

from mlops_assets.core.ledger import Ended
from mlops_assets.core.response.trainings import came_to, refused_in_a_row
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.spec.release import ReleaseSpec
from mlops_assets_tests.core.response.examples import Story, data_of, drift_of, former_of, model_of, policy


def trying(strategy: Any = "shadow-then-canary", **changes: Any) -> ModelSpec:
    """A policy for a model whose candidates are tried, and that is trained on twenty days."""
    spec = policy(**{"cooldown": "10d", **changes})
    training = spec.training.model_copy(update={"window": timedelta(days=20)})
    return spec.model_copy(update={"release": ReleaseSpec(strategy=strategy), "training": training})


def drifting(story: Story) -> Any:
    number = len(story.data)
    one = drift_of("temp", severity="critical", alarm=True, reason="temp has moved")
    return story.day(data_of(number, "degrading", 1, one, drifted=("temp",)))


class TestWhileOneIsTried:
    @pytest.mark.parametrize("is_looked_at", [True, False])
    def test_no_other_is_trained_for_the_same_decay(self, is_looked_at: bool) -> None:
        """A trial that took longer than a cooldown was once ended by the next training, and that one's by the next."""
        story = Story(trying())
        story.try_out(story.bad_day(), 2, is_looked_at=is_looked_at)
        days = [story.bad_day().decision for _ in range(40)]
        assert {one.action for one in days} == {"alert"}
        assert "version 2 is on trial: the next training waits for its end" in days[-1].reason
        story.step(2, "dismiss")
        if is_looked_at:
            assert story.bad_day().decision.action == "retrain"

    def test_none_is_trained_for_drift_either(self) -> None:
        story = Story(trying())
        drifting(story)
        response = drifting(story)
        assert response.decision.action == "retrain"
        story.try_out(response, 2)
        assert "retrain" not in {drifting(story).decision.action for _ in range(40)}

    def test_a_version_that_was_promoted_holds_nothing_up(self) -> None:
        story = Story(trying())
        story.try_out(story.bad_day(), 2)
        story.step(2, "canary", "promote")
        assert story.record.open_trial is not None, "the former champion is still compared with"
        story.release(2)
        assert "retrain" in {story.bad_day().decision.action for _ in range(11)}

    def test_where_nobody_looks_at_trials_any_more_nothing_is_held_up(self) -> None:
        story = Story(trying("immediate"))
        story.try_out(story.bad_day(), 2)
        assert "retrain" in {story.bad_day().decision.action for _ in range(11)}

    def test_it_is_not_gone_back_to(self) -> None:
        story = Story(trying(), fresh_rows=10, rivals=(former_of(2, is_better=True),))
        story.on_trial = 2
        assert story.bad_day().decision.action == "alert"
        story.rivals = (former_of(3, is_better=True),)
        assert story.look().decision.details["version"] == "3"


class TestWhatATrialComesTo:
    @pytest.mark.parametrize("steps", [("dismiss",), ("promote", "roll back")], ids=["dismissed", "taken back"])
    def test_one_that_it_dismisses_is_a_refused_candidate(self, steps: tuple[str, ...]) -> None:
        """The next one once came as if nothing had been refused: no longer window, and no person asked."""
        story, seen, version = Story(trying(cooldown="2d", max_refusals=2)), [], 1
        for _ in range(12):
            response = story.bad_day()
            if response.decision.action == "retrain":
                version += 1
                seen.append(response.decision.details.get("window"))
                story.try_out(response, version)
                story.step(version, *steps)
        assert seen == [None, "30d"]
        actions = [one.what.action for one in story.record.decisions]
        assert actions.count("escalate") == 1

    def test_one_that_it_dismisses_waits_for_the_cooldown(self) -> None:
        story = Story(trying())
        story.try_out(story.bad_day(), 2)
        story.step(2, "dismiss")
        days = [story.bad_day().decision.action for _ in range(10)]
        assert days == ["alert"] * 9 + ["retrain"]

    def test_one_that_stays_undecided_is_no_improvement_and_no_refusal(self) -> None:
        story, trained, version = Story(trying()), [], 1
        for day in range(160):
            response = story.bad_day()
            if response.decision.action == "retrain":
                trained.append((day, response.decision.details.get("window")))
                version += 1
                story.try_out(response, version)
                story.step(version, "inconclusive")
        assert trained == [(0, None), (20, None), (60, None), (140, None)], "each doubles the wait"
        assert "escalate" not in {one.what.action for one in story.record.decisions}

    def test_undecided_ones_wear_nobody_out_for_drift(self) -> None:
        story, trained, version = Story(trying()), 0, 1
        for _ in range(150):
            response = drifting(story)
            if response.decision.action == "retrain":
                version, trained = version + 1, trained + 1
                story.try_out(response, version)
                story.step(version, "inconclusive")
        assert trained == 4

    def test_one_that_was_promoted_and_does_not_help_doubles_the_wait_as_ever(self) -> None:
        story = Story(trying(cooldown="20d"))
        story.try_out(story.bad_day(), 2)
        story.step(2, "promote", "settle")
        story.release(2)
        days = [story.day(model=model_of(day, 2, decayed=True)).decision.action for day in range(1, 11)]
        assert days == ["alert"] * 9 + ["retrain"], "after half a cooldown"

    @pytest.mark.parametrize(
        ("steps", "expected"),
        [
            ((), "on trial"),
            (("canary", "widen"), "on trial"),
            (("dismiss",), "refused"),
            (("inconclusive",), "undecided"),
            (("superseded",), "abandoned"),
            (("promote",), "done"),
            (("promote", "settle"), "done"),
            (("promote", "superseded"), "done"),
            (("promote", "inconclusive"), "done"),
            (("promote", "roll back"), "refused"),
        ],
    )
    def test_is_what_the_training_came_to(self, steps: tuple[str, ...], expected: str) -> None:
        story = Story(trying())
        response = story.bad_day()
        story.try_out(response, 2)
        story.step(2, *steps)
        training = next(one for one in story.record.decisions if one.id == response.decision_id)
        assert came_to(story.record, training) == expected

    def test_one_that_workers_refuse_while_it_is_put_on_trial_is_refused(self) -> None:
        """The trial that had just begun for it ended as superseded, and the count of refusals began anew."""
        story = Story(trying())
        response = story.bad_day()
        story.try_out(response, 2)
        story.write(response.decision_id, Ended("refused", 1, "run-2"))
        story.step(2, "superseded")
        training = next(one for one in story.record.decisions if one.id == response.decision_id)
        assert came_to(story.record, training) == "refused"
        assert refused_in_a_row(story.record) == 1

    def test_one_that_something_else_has_ended_says_neither(self) -> None:
        story = Story(trying(cooldown="1d"))
        for version, step in ((2, "dismiss"), (3, "superseded"), (4, "dismiss")):
            response = next(one for one in iter(story.bad_day, None) if one.decision.action == "retrain")
            story.try_out(response, version)
            story.step(version, step)
        assert refused_in_a_row(story.record) == 2

    def test_a_training_without_a_trial_came_to_what_it_ended_with(self) -> None:
        story = Story(trying("immediate"))
        response = story.bad_day()
        story.write(response.decision_id, Ended("unchanged", 1))
        assert came_to(story.record, story.record.decisions[-1]) == "unchanged"
