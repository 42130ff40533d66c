"""What a worker answers from: releases picked up while it runs, bundles refused, plans carried by a Bento."""

import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlops_assets.core.rollout import Release, ReleasePlan
from mlops_assets.serving import loader
from mlops_assets.serving.loader import ReleaseSource
from mlops_assets.stores.bundles import BundleStore
from mlops_assets.stores.home import Home
from mlops_assets.stores.releases import ReleaseDamaged, ReleaseStore
from mlops_assets.stores.workers import WorkerStore
from mlops_assets_tests.serving.factory import corrupt, publish, release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def carry(folder: Path, plan: ReleasePlan, home: Home) -> Path:
    """Lay a plan and its bundle out as a Bento does."""
    (folder / "plans").mkdir(parents=True)
    (folder / "plans" / f"{plan.model}.json").write_bytes(msgspec.json.encode(plan))
    BundleStore(folder / "bundles").add_folder(BundleStore(home.bundles).path(plan.champion.bundle))
    return folder


def test_a_new_release_is_answered_from_without_a_restart(home: Home):
    first, second = small_model(version=1), small_model(version=2)
    row = second.request_rows(1)[0]
    release(home, first)
    with AppUnderTest(home) as app:
        assert app.predict(row).json()["model_version"] == 1

        release(home, second)

        app.wait_for(lambda: app.predict(row).json()["release"] == 2)
        answer = app.predict(row).json()
    assert answer["model_version"] == 2
    assert answer["probability"] == pytest.approx(second.expected(1)[0, 1], abs=1e-12)


def test_who_stands_beside_the_champion_takes_its_place_without_being_loaded_again(home: Home):
    """A way back that had to be read, and proven again, kept callers with the bad version for as long as that takes."""
    first, second = small_model(version=1), small_model(version=2)
    good = release(home, first)
    bad = release(home, second)
    beside = msgspec.structs.replace(bad, release=3, previous=2, last_good=good.champion)
    ReleaseStore(home.releases).publish(beside)
    with AppUnderTest(home) as app:
        shutil.rmtree(BundleStore(home.bundles).path(good.champion.bundle))
        back = msgspec.structs.replace(beside, release=4, previous=3, champion=good.champion, last_good=None)
        ReleaseStore(home.releases).publish(back)
        app.wait_for(lambda: app.predict(second.request_rows(1)[0]).json()["release"] == 4)
        assert app.predict(second.request_rows(1)[0]).json()["model_version"] == 1


def test_the_first_release_and_another_model_are_picked_up(home: Home):
    with AppUnderTest(home) as app:
        assert app.predict({}).status_code == 503
        release(home, small_model())
        app.wait_for(lambda: app.get("/v1/models/delay/schema").status_code == 200)
        release(home, small_model("air", "regression"))
        app.wait_for(lambda: app.get("/v1/models/air/schema").status_code == 200)


@pytest.mark.parametrize("name", ["scorer.npz", "scorer.json", "golden.json", "manifest.json"])
def test_a_bundle_that_was_changed_is_refused_and_the_former_one_stays(home: Home, name: str):
    row = small_model().request_rows(1)[0]
    release(home, small_model(version=1))
    with AppUnderTest(home) as app:
        before = app.predict(row).json()
        bundle = BundleStore(home.bundles).put(small_model(version=2).manifest, small_model(version=2).files)
        corrupt(home, bundle, name)

        publish(home, "delay", Release(2, bundle))

        app.wait_for(lambda: "delay" in app.get("/v1/models").json()["errors"])
        after = app.predict(row).json()
        assert "damaged" in app.get("/v1/models").json()["errors"]["delay"]
        assert (after["release"], after["probability"]) == (1, before["probability"])
        assert app.get("/readyz").status_code == 200


def test_a_bundle_that_answers_otherwise_than_its_golden_rows_is_refused(home: Home):
    release(home, small_model(version=1))
    with AppUnderTest(home) as app:
        wrong = small_model(version=3).files["scorer.npz"]

        release(home, small_model(version=2), damage=lambda files: files.update({"scorer.npz": wrong}))

        app.wait_for(lambda: "delay" in app.get("/v1/models").json()["errors"])
        assert "ScorerError" in app.get("/v1/models").json()["errors"]["delay"]
        assert app.predict(small_model().request_rows(1)[0]).json()["release"] == 1


def test_a_plan_that_names_another_version_than_its_bundle_is_refused(home: Home):
    plan = release(home, small_model(version=1))
    with AppUnderTest(home) as app:
        publish(home, "delay", Release(7, plan.champion.bundle))
        # The same bundle under another version: nothing to load, but not what was released either.
        app.wait_for(lambda: "delay" in app.get("/v1/models").json()["errors"])


def test_a_refused_bundle_is_tried_again_and_taken_when_it_is_whole(home: Home):
    bundles = BundleStore(home.bundles)
    bundle = bundles.put(small_model().manifest, small_model().files)
    corrupt(home, bundle)
    publish(home, "delay", Release(1, bundle))
    with AppUnderTest(home) as app:
        assert app.get("/readyz").status_code == 503
        assert app.predict({}).status_code == 503

        bundles.put(small_model().manifest, small_model().files)

        app.wait_for(lambda: app.get("/readyz").status_code == 200)
        assert app.get("/v1/models").json()["errors"] == {}


def test_a_worker_reports_which_release_it_refuses(home: Home):
    bundle = BundleStore(home.bundles).put(small_model().manifest, small_model().files)
    corrupt(home, bundle)
    publish(home, "delay", Release(1, bundle))
    with AppUnderTest(home):
        (state,) = WorkerStore(home.workers).live(datetime.now(UTC), timedelta(seconds=5))
        assert (state.models, list(state.errors), state.refused) == ({}, ["delay"], {"delay": 1})


def test_a_plan_that_cannot_be_read_is_no_refusal_of_any_release(home: Home, monkeypatch: pytest.MonkeyPatch):
    release(home, small_model())

    def fail(source: ReleaseSource, model: str) -> ReleasePlan:
        raise OSError("too many open files")

    monkeypatch.setattr(ReleaseSource, "plan", fail)
    with AppUnderTest(home):
        (state,) = WorkerStore(home.workers).live(datetime.now(UTC), timedelta(seconds=5))
        assert (state.models, list(state.errors), state.refused) == ({}, ["delay"], {"delay": 0})


def test_a_worker_reports_what_it_has_and_leaves_nothing_when_it_stops(home: Home):
    plan = release(home, small_model())
    workers = WorkerStore(home.workers)
    with AppUnderTest(home):
        (state,) = workers.live(datetime.now(UTC), timedelta(seconds=5))
        assert (state.models["delay"].release, state.models["delay"].bundle) == (1, plan.champion.bundle)
        assert state.errors == {}
    assert workers.live(datetime.now(UTC), timedelta(seconds=5)) == ()


def test_a_worker_that_takes_long_to_load_a_version_is_alive(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loader, "HEARTBEAT_SECONDS", 0.02)
    loading, loaded = threading.Event(), threading.Event()
    release(home, small_model(version=1))
    with AppUnderTest(home) as app:
        cast = loader.cast_champion

        def slow(*arguments: Any) -> Any:
            loading.set()
            assert loaded.wait(20)
            return cast(*arguments)

        monkeypatch.setattr(loader, "cast_champion", slow)
        try:
            release(home, small_model(version=2))
            assert loading.wait(20)
            (before,) = WorkerStore(home.workers).live(datetime.now(UTC), timedelta(seconds=30))
            app.wait_for(lambda: heartbeat(home) > before.heartbeat_at)
            assert before.models["delay"].release == 1
        finally:
            loaded.set()


def heartbeat(home: Home) -> datetime:
    (worker,) = WorkerStore(home.workers).live(datetime.now(UTC), timedelta(seconds=30))
    return worker.heartbeat_at


def test_carried_plans_answer_where_no_store_is_in_reach(home: Home, tmp_path: Path):
    carried = carry(tmp_path / "carried", release(home, small_model()), home)
    with AppUnderTest(Home(tmp_path / "elsewhere"), carried) as app:
        assert app.predict(small_model().request_rows(1)[0]).json()["release"] == 1


@pytest.mark.parametrize("content", [b"{", b'{"model":"\xff"}'])
def test_a_carried_plan_that_cannot_be_read_is_named(home: Home, tmp_path: Path, content: bytes):
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "delay.json").write_bytes(content)
    with pytest.raises(ReleaseDamaged, match=r"delay\.json is not a release plan .*build the Bento again"):
        ReleaseSource(ReleaseStore(home.releases), BundleStore(home.bundles), tmp_path)


def test_a_newer_plan_in_the_store_wins_over_the_carried_one(home: Home, tmp_path: Path):
    carried = carry(tmp_path / "carried", release(home, small_model()), home)
    row = small_model().request_rows(1)[0]
    with AppUnderTest(home, carried) as app:
        assert app.predict(row).json()["release"] == 1
        release(home, small_model(version=2))
        app.wait_for(lambda: app.predict(row).json()["release"] == 2)


def test_a_damaged_copy_in_the_store_is_made_up_for_by_the_carried_one(home: Home, tmp_path: Path):
    plan = release(home, small_model())
    carried = carry(tmp_path / "carried", plan, home)
    corrupt(home, plan.champion.bundle)
    with AppUnderTest(home, carried) as app:
        assert app.predict(small_model().request_rows(1)[0]).status_code == 200
