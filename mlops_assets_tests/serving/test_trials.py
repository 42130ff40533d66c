"""Who answers a request, and what else is scored for it: canaries, shadows, and what becomes of a challenger that fails."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlops_assets.core.rollout import Challenger, Release, Split
from mlops_assets.core.scoring.load import load_scorer
from mlops_assets.stores.bundles import BundleStore
from mlops_assets.stores.home import Home
from mlops_assets.stores.prediction_log import LogError
from mlops_assets_tests.serving.factory import corrupt, release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest
from mlops_assets_tests.serving.trials import (
    LIMITS,
    SOON,
    Failing,
    Gated,
    break_version,
    change,
    changed,
    identical_to_champion,
    loaded,
    on_the_path,
    release_of,
    standby,
    trial_of,
)

FEATURES = {"temp": 50.5, "seats": 100, "holiday": False, "carrier": "AA", "air port": "JFK", "distance": 1000}
ENTITIES = [f"N{number}" for number in range(40)]
INSIDE = Split("salt", 0.5)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    release(home, small_model())
    return home


@pytest.fixture
def app(home: Home) -> Iterator[AppUnderTest]:
    with AppUnderTest(home) as app:
        yield app


def expected(version: int) -> float:
    """What a version answers to `FEATURES`."""
    model = small_model(version=version)
    row = (50.5, 100.0, False, "AA", "JFK", 1000.0)
    return float(load_scorer(model.manifest, model.files).score_rows([row])[0, 1])


class TestCanary:
    def test_the_entities_of_its_share_are_answered_by_the_challenger_each_time(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "canary", 0.5))
        for _ in range(2):
            for entity in ENTITIES:
                answer = app.predict(FEATURES, entity=entity).json()
                version, role = (2, "challenger") if INSIDE(entity) else (1, "champion")
                assert (answer["model_version"], answer["role"], answer["release"]) == (version, role, 2)
                assert answer["probability"] == pytest.approx(expected(version), abs=1e-12)
                assert "degraded" not in answer
        records = app.predictions()
        assert len(records) == 80
        assert {(one.role, one.version) for one in records} == {("champion", 1), ("challenger", 2)}
        assert all((one.role == "challenger") == INSIDE(one.entity or "") for one in records)
        assert {one.bundle for one in records if one.role == "challenger"} == {
            release_of(app.home, small_model(version=2)).bundle
        }

    def test_who_is_in_the_share_stays_in_a_larger_one(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "canary", 0.2))
        before = {entity for entity in ENTITIES if app.predict(FEATURES, entity=entity).json()["role"] == "challenger"}
        changed(app, challenger=trial_of(app.home, 2, "canary", 0.7))
        after = {entity for entity in ENTITIES if app.predict(FEATURES, entity=entity).json()["role"] == "challenger"}
        assert before < after

    def test_a_request_without_an_entity_goes_by_its_id(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "canary", 0.5))
        for name in ENTITIES[:20]:
            assert (app.predict(FEATURES, id=name).json()["role"] == "challenger") == INSIDE(name)
        answers = [app.predict(FEATURES).json() for _ in range(20)]
        assert all((one["role"] == "challenger") == INSIDE(one["prediction_id"]) for one in answers)
        assert {one["role"] for one in answers} == {"champion", "challenger"}

    def test_rows_of_one_request_go_to_both_and_come_back_in_their_order(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "canary", 0.5))
        rows = [{"features": FEATURES, "entity": entity, "id": f"id {entity}"} for entity in ENTITIES]
        answer = app.post("/v1/models/delay/predict", {"rows": rows}).json()
        assert (answer["model_version"], answer["role"], len(answer["predictions"])) == (1, "champion", 40)
        for entity, one in zip(ENTITIES, answer["predictions"], strict=True):
            version, role = (2, "challenger") if INSIDE(entity) else (1, "champion")
            assert (one["prediction_id"], one["model_version"], one["role"]) == (f"id {entity}", version, role)
            assert one["probability"] == pytest.approx(expected(version), abs=1e-12)
        assert [record.id for record in app.predictions()] == [f"id {entity}" for entity in ENTITIES]
        app.wait_for(lambda: loaded(app.home).counts.answered == 1)
        challenger = loaded(app.home).challenger
        assert challenger is not None
        assert challenger.counts.answered == 1, "a request counts once for each that answered rows of it"

    @pytest.mark.parametrize("inside", [True, False])
    def test_rows_that_one_version_answers_are_answered_as_ever(self, app: AppUnderTest, inside: bool):
        changed(app, challenger=trial_of(app.home, 2, "canary", 0.5))
        rows = [{"features": FEATURES, "entity": entity} for entity in ENTITIES if INSIDE(entity) == inside]
        answer = app.post("/v1/models/delay/predict", {"rows": rows}).json()
        assert (answer["model_version"], answer["role"]) == ((2, "challenger") if inside else (1, "champion"))
        assert set(answer["predictions"][0]) == {
            "prediction_id", "prediction", "probability", "imputed", "out_of_domain",
        }  # fmt: skip

    def test_probes_ask_for_the_champion(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "canary", 1.0))
        assert app.predict(FEATURES, probe=True).json()["role"] == "champion"
        assert app.predict(FEATURES).json()["role"] == "challenger"

    def test_who_answered_is_told_in_a_header_to_those_who_ask(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "canary", 0.5))
        path, json = "/v1/models/delay/predict", {"content-type": "application/json"}
        rows = {"rows": [{"features": FEATURES, "entity": entity} for entity in ENTITIES]}
        assert "x-mlops-release" not in app.predict(FEATURES).headers
        answer = app.request(
            "POST", path, msgspec.json.encode({"features": FEATURES, "probe": True}), **json, **{"x-mlops-debug": "1"}
        )
        assert answer.headers["x-mlops-release"] == "2; version=1; role=champion"
        answer = app.request("POST", path, msgspec.json.encode(rows), **json, **{"x-mlops-debug": "1"})
        assert answer.headers["x-mlops-release"] == "2; version=2,1; role=challenger,champion"

    def test_masked_features_are_masked_for_the_challenger_too(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "canary", 1.0), masked=("temp",))
        answer = app.predict({**FEATURES, "temp": 1e6}).json()
        assert (answer["role"], answer["imputed"], answer["out_of_domain"]) == ("challenger", ["temp"], [])


class TestShadow:
    def test_the_champion_answers_and_the_challengers_answer_is_on_record_beside_it(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "shadow", 1.0))
        answer = app.predict({**FEATURES, "temp": None}, entity="N1").json()
        assert (answer["model_version"], answer["role"]) == (1, "champion")
        app.shadowed()
        champion, shadow = app.predictions()
        assert (champion.role, shadow.role, shadow.version, shadow.release) == ("champion", "shadow", 2, 2)
        for name in ("id", "entity", "event_time", "features", "imputed", "status"):
            assert getattr(shadow, name) == getattr(champion, name), name
        assert shadow.output != champion.output
        assert shadow.latency_ms > 0
        app.wait_for(lambda: loaded(app.home).challenger.counts.answered == 1)  # type: ignore[union-attr]
        assert loaded(app.home).counts.answered == 1

    def test_an_identical_challenger_neither_delays_nor_changes_an_answer(self, app: AppUnderTest):
        """What is done until an answer is sent is the same with it and without."""
        request = {"features": {**FEATURES, "temp": None}, "entity": "N1", "id": "one"}
        alone = on_the_path(app, request)
        changed(app, challenger=identical_to_champion(app.home))
        beside = on_the_path(app, request)
        assert alone.before == beside.before == [
            "the champion scores", "the answer is logged", "http.response.start", "http.response.body",
        ]  # fmt: skip
        assert (alone.after, beside.after) == ([], ["the challenger scores", "the shadow is logged"])
        first, second = (msgspec.json.decode(one.body) for one in (alone, beside))
        assert (first.pop("release"), second.pop("release")) == (1, 2)
        assert first == second
        _, champion, shadow = app.predictions()
        assert (shadow.role, shadow.output) == ("shadow", champion.output)

    def test_answers_are_given_while_the_challenger_does_not_come_to_an_end(self, home: Home):
        slow = release_of(home, small_model(version=2, compiled=False))
        change(home, challenger=Challenger(2, slow.bundle, "shadow", 1.0))
        with AppUnderTest(home) as app:
            gate = Gated(app.runtime.state.snapshot.models["delay"].beside.challenger.scorer)  # type: ignore[union-attr]
            break_version(app, "challenger", gate)
            assert [app.predict(FEATURES).json()["role"] for _ in range(20)] == ["champion"] * 20
            assert {one.role for one in app.predictions()} == {"champion"}
            assert app.runtime.shadows.rows == 20
            gate.open.set()
            app.shadowed()
            assert [one.role for one in app.predictions()].count("shadow") == 20

    def test_a_share_of_the_entities_is_scored(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "shadow", 0.5))
        rows = [{"features": FEATURES, "entity": entity} for entity in ENTITIES]
        app.post("/v1/models/delay/predict", {"rows": rows})
        app.shadowed()
        scored = [one for one in app.predictions() if one.role == "shadow"]
        assert [one.entity for one in scored] == [entity for entity in ENTITIES if INSIDE(entity)]
        assert all(one.output[1] == pytest.approx(expected(2), abs=1e-12) for one in scored)

    def test_probes_are_not_scored(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "shadow", 1.0))
        app.predict(FEATURES, probe=True)
        app.shadowed()
        assert len(app.predictions()) == 1

    @pytest.mark.parametrize("how", ["error", "not finite"])
    def test_a_challenger_that_fails_is_on_record_and_no_caller_notices(self, app: AppUnderTest, how: Any):
        changed(app, challenger=trial_of(app.home, 2, "shadow", 1.0), breaker=LIMITS)
        scorer = Failing(how)
        break_version(app, "challenger", scorer)
        for _ in range(12):
            assert app.predict(FEATURES).json()["role"] == "champion"
            app.shadowed()
        shadows = [one for one in app.predictions() if one.role == "shadow"]
        assert {one.status for one in shadows} == {500}
        assert all(one.features == one.output == () and one.error for one in shadows)
        assert len(shadows) == scorer.asked < 12, "it is scored no more"
        app.wait_for(lambda: loaded(app.home).challenger.counts.failed == len(shadows))  # type: ignore[union-attr]
        assert loaded(app.home).counts.failed == 0

    def test_what_finds_the_queue_full_is_dropped_and_answered(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "shadow", 1.0))
        app.runtime.shadows._most_rows = 3
        rows = [{"features": FEATURES}] * 4
        answer = app.post("/v1/models/delay/predict", {"rows": rows})
        assert answer.status_code == 200
        app.shadowed()
        assert {one.role for one in app.predictions()} == {"champion"}

    def test_what_cannot_be_logged_costs_the_shadow_alone(self, app: AppUnderTest, monkeypatch: pytest.MonkeyPatch):
        changed(app, challenger=trial_of(app.home, 2, "shadow", 1.0))

        async def full(_records: Any) -> None:
            raise LogError("the disk is full")

        monkeypatch.setattr(app.runtime.shadows, "_append", full)
        for _ in range(3):
            assert app.predict(FEATURES).status_code == 200
            app.shadowed()
        assert len(app.predictions()) == 3

    def test_a_slow_challenger_is_scored_by_a_thread_of_its_own(self, home: Home):
        slow = release_of(home, small_model(version=2, compiled=False))
        change(home, challenger=Challenger(2, slow.bundle, "shadow", 1.0))
        with AppUnderTest(home) as app:
            assert app.predict(FEATURES).json()["role"] == "champion"
            app.shadowed()
            assert [one.role for one in app.predictions()] == ["champion", "shadow"]

    def test_what_waits_when_the_worker_stops_is_scored(self, home: Home):
        change(home, challenger=trial_of(home, 2, "shadow", 1.0))
        with AppUnderTest(home) as app:
            app.predict(FEATURES)
        assert [one.role for one in app.predictions()] == ["champion", "shadow"]


class TestRefused:
    def test_a_challenger_that_cannot_be_loaded_never_disturbs_the_champion(self, app: AppUnderTest):
        trial = trial_of(app.home, 2, "canary", 1.0)
        corrupt(app.home, trial.bundle)
        changed(app, challenger=trial)
        answer = app.predict(FEATURES).json()
        assert (answer["model_version"], answer["role"], answer["release"]) == (1, "champion", 2)
        report = loaded(app.home)
        assert report.challenger is None
        assert "damaged" in report.refused["challenger"]
        (model,) = app.get("/v1/models").json()["models"]
        assert (model["beside"], list(model["refused"])) == ([], ["challenger"])

    def test_it_is_tried_again_and_nothing_of_the_champion_is_lost(self, app: AppUnderTest):
        trial = trial_of(app.home, 2, "canary", 1.0)
        corrupt(app.home, trial.bundle)
        changed(app, challenger=trial)
        app.predict(FEATURES)
        trial_of(app.home, 2, "canary", 1.0)  # whole again
        app.wait_for(lambda: loaded(app.home).challenger is not None)
        assert app.predict(FEATURES).json()["role"] == "challenger"
        assert loaded(app.home).refused == {}
        app.wait_for(lambda: loaded(app.home).counts.answered == 1)

    def test_a_challenger_that_answers_otherwise_than_its_golden_rows_is_refused(self, app: AppUnderTest):
        second, third = small_model(version=2), small_model(version=3)
        files = {**second.files, "scorer.npz": third.files["scorer.npz"]}
        bundle = BundleStore(app.home.bundles).put(second.manifest, files)
        changed(app, challenger=Challenger(2, bundle, "canary", 1.0))
        assert "ScorerError" in loaded(app.home).refused["challenger"]
        assert app.predict(FEATURES).json()["role"] == "champion"

    def test_a_last_good_version_that_is_lost_is_no_fault_of_the_release(self, app: AppUnderTest):
        changed(app, last_good=Release(9, f"sha256:{'0' * 64}"))
        assert "neither in the store nor carried" in loaded(app.home).refused["last_good"]
        assert not app.runtime.state.snapshot.lacks_something


class TestChallengerFails:
    def test_the_champion_answers_in_its_place_until_nobody_asks_it_any_more(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "canary", 1.0), breaker=LIMITS)
        scorer = Failing()
        break_version(app, "challenger", scorer)
        answers = [app.predict(FEATURES) for _ in range(6)]
        assert {one.status_code for one in answers} == {200}
        assert {one.json()["role"] for one in answers} == {"champion"}
        assert scorer.asked == 4, "the breaker opens with the fourth failure"
        errors = [one.error for one in app.predictions()]
        assert errors[:4] == ["challenger version 2: RuntimeError: a fault"] * 4
        not_asked = "challenger version 2 is not asked: 4 of the last 4 requests failed, the last one raised an error"
        assert errors[4:] == [not_asked] * 2
        app.wait_for(lambda: loaded(app.home).challenger.counts.failed == 4)  # type: ignore[union-attr]
        report = loaded(app.home)
        assert (report.counts.answered, report.counts.failed) == (6, 0)
        assert report.challenger is not None
        assert report.challenger.breaker.trips == 1
        assert "4 of the last 4 requests failed" in str(report.challenger.breaker.reason)

    def test_of_rows_that_it_is_not_asked_for_the_record_says_so_and_of_no_others(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "canary", 0.5), breaker=LIMITS)
        break_version(app, "challenger", Failing())
        for entity in [one for one in ENTITIES if INSIDE(one)][:4]:
            app.predict(FEATURES, entity=entity)
        rows = [{"features": FEATURES, "entity": entity} for entity in ENTITIES]
        answer = app.post("/v1/models/delay/predict", {"rows": rows}).json()
        assert (answer["model_version"], answer["role"]) == (1, "champion")
        assert "role" not in answer["predictions"][0], "one version answered them all"
        records = app.predictions()[4:]
        assert [one.entity for one in records] == ENTITIES
        assert [one.error is not None for one in records] == list(map(INSIDE, ENTITIES))

    def test_it_is_tried_again_and_asked_when_it_does_well(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "canary", 1.0), breaker=SOON)
        whole = break_version(app, "challenger", Failing())
        for _ in range(5):
            app.predict(FEATURES)
        break_version(app, "challenger", whole)

        def is_well() -> bool:
            challenger = loaded(app.home).challenger
            answered = app.predict(FEATURES).json()["role"] == "challenger"
            return answered and challenger is not None and challenger.breaker.state == "closed"

        app.wait_for(is_well)

    def test_a_value_that_both_refuse_is_the_callers_fault(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "canary", 0.5), breaker=LIMITS)
        rows = [{"features": FEATURES, "entity": entity} for entity in ENTITIES[:6]]
        rows[4] = {**rows[4], "features": {**FEATURES, "distance": "far"}}
        answer = app.post("/v1/models/delay/predict", {"rows": rows})
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "rows[4].features.distance")


class TestRolesChange:
    def test_what_is_loaded_is_not_loaded_again_when_it_takes_over_or_comes_back(self, app: AppUnderTest):
        changed(app, challenger=trial_of(app.home, 2, "canary", 0.5))
        before = app.runtime.state.snapshot.models["delay"]
        assert before.beside.challenger is not None
        second = release_of(app.home, small_model(version=2))
        changed(app, champion=second, challenger=None, standby=standby(app.home, 1))
        promoted = app.runtime.state.snapshot.models["delay"]
        assert promoted.scorer is before.beside.challenger.scorer
        assert promoted.beside.standby is not None
        assert promoted.beside.standby.scorer is before.scorer
        assert (promoted.role, promoted.beside.standby.role) == ("champion", "standby")
        corrupt(app.home, second.bundle)
        changed(app, champion=release_of(app.home, small_model()), standby=None, withdrawn=(2,))
        assert app.runtime.state.snapshot.models["delay"].scorer is before.scorer
        assert app.predict(FEATURES).json()["role"] == "champion"
