"""What is counted of a trial: whose each request is, and that one outcome counts once."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlops_assets.core.records import LabelRecord
from mlops_assets.core.sequential import Errors, Values
from mlops_assets.core.trials.judging import Seen
from mlops_assets_tests.operations.trial_examples import CANARY, Asked

FAILED = "challenger version 2: RuntimeError: a fault"
NOT_ASKED = "challenger version 2 is not asked: 4 of the last 4 requests failed, the last one raised an error"


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path, **CANARY).begin()


class TestWhoseItIs:
    def test_what_the_champion_answers_in_its_place_is_its_failure(self, asked: Asked):
        """It failed, or its breaker was open: both were taken for successes where the record did not say so."""
        mine, theirs = asked.entities(True, 5), asked.entities(False, 15)
        for entity in theirs:
            asked(entity)
        asked(mine[0], "challenger")
        asked(mine[1], error=FAILED)
        asked(mine[2], error=NOT_ASKED)
        asked(mine[3], "standby", error=f"{NOT_ASKED}; champion version 1: RuntimeError: a fault")
        asked(mine[4], "challenger", wrong=True)
        seen = asked.seen()
        assert seen.evidence["errors"] == (Errors(20, 3, 0, 5 / 20),)
        assert seen.evidence["quality"] == (Errors(17, 1, 0, 2 / 17),), "what it did not answer is no answer of anybody"
        assert seen.answered == 2

    def test_where_it_was_not_loaded_rows_of_its_share_count_for_nobody(self, asked: Asked):
        mine, theirs = asked.entities(True, 6), asked.entities(False, 12)
        for entity in mine[:4]:
            asked(entity, wrong=True)
        asked(mine[4], "standby", error="champion version 1 is not asked: it broke")
        for entity in theirs:
            asked(entity, wrong=True)
        asked(mine[0], "challenger")
        asked(mine[5], "challenger", wrong=True)
        seen = asked.seen()
        assert seen.evidence["errors"] == (Errors(13, 0, 0, 1 / 13),), "nor does one of them that comes back later"
        assert seen.evidence["quality"] == (Errors(13, 1, 12, 1 / 13),)

    def test_a_time_in_which_it_was_not_asked_is_compared_with_nothing(self, asked: Asked):
        """A bad one passed whatever it did, where the champion had answered for it for a while."""
        mine, theirs = asked.entities(True, 110), asked.entities(False, 220)
        for number, entity in enumerate(mine[:60]):
            asked(entity)
            for other in theirs[2 * number : 2 * number + 2]:
                asked(other, wrong=True)
        for number, entity in enumerate(mine[60:], start=60):
            asked(entity, "challenger", wrong=number % 5 == 0)
            for other in theirs[2 * number : 2 * number + 2]:
                asked(other)
        quality = asked.seen().evidence["quality"]
        assert [one.candidate for one in quality if isinstance(one, Errors)] == [8, 2]
        assert [one.champion for one in quality if isinstance(one, Errors)] == [20, 0]

    def test_a_challenger_that_no_worker_loads_proves_nothing(self, asked: Asked):
        for entity in (*asked.entities(True, 3), *asked.entities(False, 9)):
            asked(entity, wrong=True)
        assert asked.seen() == Seen({"errors": (), "quality": ()}, 0, 11 * 60.0)

    def test_what_fails_of_the_champion_is_its_own(self, asked: Asked):
        mine, theirs = asked.entities(True, 1), asked.entities(False, 4)
        asked(mine[0], "challenger")
        asked(theirs[0], "fallback", error="champion version 1: RuntimeError: a fault")
        asked(theirs[1], status=503, error="turned away", label=False)
        asked(theirs[2])
        assert asked.seen().evidence["errors"] == (Errors(3, 0, 1, 1 / 3),)

    def test_what_nobody_answered_is_shared_out_as_entities_are(self, asked: Asked):
        """Neither entity nor share of such a request are known: as the champion's alone it would speak for the challenger."""
        asked(asked.entities(True, 1)[0], "challenger")
        for _ in range(80):
            asked(None, status=500, error="the request failed inside the service", label=False)
        [errors] = asked.seen().evidence["errors"]
        assert isinstance(errors, Errors)
        assert errors.candidate + errors.champion == 80
        assert 0 < errors.candidate < errors.champion

    def test_values_fed_back_go_by_the_share_that_came_true(self, tmp_path: Path):
        conversion = {"name": "conversion", "matters": 0.2}
        asked = Asked(tmp_path, **CANARY, metrics=[conversion]).begin()
        mine, theirs = asked.entities(True, 3), asked.entities(False, 9)
        fed = [*(asked(one, "challenger") for one in mine[:1]), *map(asked, [*mine[1:], *theirs])]
        now = datetime.now(UTC)
        asked.records += [LabelRecord("delay", "conversion", 1.0, now, now, id=name) for name in fed]
        [values] = asked.seen().evidence["conversion"]
        assert isinstance(values, Values)
        assert (values.candidate.samples, values.champion.samples, values.share) == (1, 9, 1 / 10)


class TestOnceEach:
    """The same entity, asked fifty times in a minute, made fifty pairs."""

    @pytest.fixture
    def asked(self, tmp_path: Path) -> Asked:
        return Asked(tmp_path, strategy="shadow").begin()

    def test_one_event_makes_one_pair(self, asked: Asked):
        for _ in range(50):
            asked("E1", minutes=7, also_shadow=True)
        asked("E2", minutes=7, also_shadow=True)
        seen = asked.seen()
        assert seen.evidence["errors"] == (Errors(2, 0, 0),)
        assert seen.evidence["quality"] == (Errors(2, 2, 0),)
        assert seen.answered == 2

    def test_one_outcome_makes_one_labelled_pair_and_the_next_one_another(self, asked: Asked):
        for minutes in (*range(50), 200, 210):
            asked("E1", minutes=minutes, also_shadow=True)
        seen = asked.seen()
        assert seen.evidence["errors"] == (Errors(52, 0, 0),)
        assert seen.evidence["quality"] == (Errors(2, 2, 0),)

    def test_what_names_no_entity_stands_for_itself(self, asked: Asked):
        for _ in range(3):
            asked(None, minutes=7, also_shadow=True)
        assert asked.seen().evidence["quality"] == (Errors(3, 3, 0),)
