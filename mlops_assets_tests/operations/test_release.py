"""Releasing while others change the plan as well, and while workers are late: what is refused, and what is only not done yet."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from mlops_assets.core.ledger import Decided, Entry, Frozen
from mlops_assets.core.rollout import Entrant, ReleasePlan
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations import confirm, release
from mlops_assets.operations.plan_changes import TRIES, ChangeFailed
from mlops_assets.operations.release import Released, ReleaseRefused, deploy
from mlops_assets.operations.rollback import mask, retire, roll_back
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import RefusedByWorker
from mlops_assets.stores.home import Home
from mlops_assets.stores.releases import ReleaseStore
from mlops_assets_tests.operations.faltering import Faltering
from mlops_assets_tests.operations.rollback_examples import bundled, registry_of, released, stores_in
from mlops_assets_tests.serving.factory import small_model, small_spec

HASTY = {"confirm_timeout": timedelta(seconds=0.5)}
SPEC = small_spec(release=HASTY)
CANARY = small_spec(release={**HASTY, "strategy": "canary"})


def said() -> dict[str, Any]:
    return {"reason": "a test", "decided_by": "user:ann", "now": datetime.now(UTC)}


class Candidate:
    """Version 4, trained and judged, of which one release is wanted."""

    def __init__(self, stores: Stores) -> None:
        self.stores, self.entered = stores, 0

    def enter(self, *_given: Any, **_named: Any) -> Entrant:
        self.entered += 1
        return bundled(self.stores, small_model(version=4))

    def deploy(self, spec: ModelSpec = SPEC, decision: str = "") -> Released:
        manifest = small_model(version=4).manifest
        candidate: Any = SimpleNamespace(model="delay", version=4)
        evaluation: Any = SimpleNamespace(version=4, gates=(), compared_with="nobody")
        fitted: Any = SimpleNamespace(contract=manifest.features, plan=manifest.imputation, scorer=object())
        rows: Any = None
        return deploy(spec, self.stores, candidate, evaluation, (fitted, rows), "run:tests", decision=decision)


@pytest.fixture
def candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Candidate:
    """Versions 1 and 3 were released; 3 answers."""
    stores = stores_in(tmp_path)
    released(stores, 1, 3)
    candidate = Candidate(stores)
    monkeypatch.setattr(release, "_enter", candidate.enter)
    monkeypatch.setattr(release, "_bundle_files", lambda *given: small_model(version=4).files)
    monkeypatch.setattr(release, "build_bento", lambda home, *, instead: f"predictor:{instead.release}")
    return candidate


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Something else happens just before the candidate's plan is published."""
    publish = ReleaseStore.publish

    def happens(what: Callable[[], Any]) -> None:
        def late(self: ReleaseStore, plan: ReleasePlan) -> None:
            monkeypatch.setattr(ReleaseStore, "publish", publish)
            what()
            publish(self, plan)

        monkeypatch.setattr(ReleaseStore, "publish", late)

    return happens


Meanwhile = Callable[[Callable[[], Any]], None]


def current(stores: Stores) -> ReleasePlan:
    plan = stores.releases.current("delay")
    assert plan is not None
    return plan


@pytest.mark.parametrize("spec", [SPEC, CANARY], ids=["immediate", "canary"])
def test_a_plan_that_others_publish_meanwhile_is_followed(candidate: Candidate, meanwhile: Meanwhile, spec: ModelSpec):
    """Who came a moment too late was once booked as a candidate that the gates had held back."""
    stores = candidate.stores
    meanwhile(lambda: mask(spec, stores, ("temp",), **said()))
    made = candidate.deploy(spec)
    assert (made.is_new, made.bento, candidate.entered) == (True, "predictor:4", 1)
    assert made.plan == current(stores)
    assert (made.plan.release, made.plan.masked) == (4, ("temp",))
    entered = made.plan.challenger if spec is CANARY else made.plan.champion
    assert entered is not None
    assert entered.version == 4


def test_it_follows_a_rollback_too_and_the_alias_names_who_answers(candidate: Candidate, meanwhile: Meanwhile):
    stores = candidate.stores
    meanwhile(lambda: roll_back(CANARY, stores, 1, **said()))
    plan = candidate.deploy(CANARY).plan
    assert (plan.champion.version, plan.withdrawn) == (1, (3,))
    assert plan.challenger is not None
    assert plan.challenger.version == 4
    assert registry_of(stores).aliased("delay", "champion") == 1


def test_the_same_released_by_another_attempt_is_found(candidate: Candidate, meanwhile: Meanwhile):
    meanwhile(lambda: released(candidate.stores, 4))
    made = candidate.deploy()
    assert (made.is_new, made.plan.release, made.plan.champion.version) == (False, 3, 4)


def test_who_is_always_too_late_has_failed_and_is_not_refused(candidate: Candidate, monkeypatch: pytest.MonkeyPatch):
    publish, before = ReleaseStore.publish, len(candidate.stores.releases.history("delay"))

    def late(self: ReleaseStore, plan: ReleasePlan) -> None:
        publish(self, msgspec.structs.replace(current(candidate.stores), release=plan.release, previous=plan.previous))
        publish(self, plan)

    monkeypatch.setattr(ReleaseStore, "publish", late)
    with pytest.raises(ChangeFailed, match=r"another plan is being published all the time .*; run it again"):
        candidate.deploy()
    assert len(candidate.stores.releases.history("delay")) == before + TRIES
    assert candidate.entered == 1


def test_a_model_retired_meanwhile_is_not_brought_back(candidate: Candidate, meanwhile: Meanwhile):
    meanwhile(lambda: retire(SPEC, candidate.stores, **said()))
    with pytest.raises(ReleaseRefused, match=r"was taken out of service meanwhile \(a test\)"):
        candidate.deploy()
    assert (current(candidate.stores).release, current(candidate.stores).retired) == (3, "a test")


def test_a_freeze_meanwhile_holds_what_was_decided_by_itself(candidate: Candidate, meanwhile: Meanwhile):
    stores, now = candidate.stores, datetime.now(UTC)
    decided = Decided("retrain", "auto", "it has decayed")
    stores.ledger.record(Entry("delay", "d-1", decided, "sensor:delay_response", now))

    def freeze() -> None:
        stores.ledger.record(Entry("delay", "delay", Frozen("somebody looks"), "user:ann", now))
        mask(SPEC, stores, ("temp",), **said())

    meanwhile(freeze)
    with pytest.raises(ReleaseRefused, match="automation is frozen: somebody looks"):
        candidate.deploy(decision="d-1")
    assert current(stores).champion.version == 3


def test_so_does_one_that_publishes_no_plan(candidate: Candidate, monkeypatch: pytest.MonkeyPatch):
    stores, now = candidate.stores, datetime.now(UTC)
    decided = Decided("retrain", "auto", "it has decayed")
    stores.ledger.record(Entry("delay", "d-1", decided, "sensor:delay_response", now))

    def build(home: Home, *, instead: ReleasePlan) -> str:
        stores.ledger.record(Entry("delay", "delay", Frozen("somebody looks"), "user:ann", now))
        return "predictor:3"

    monkeypatch.setattr(release, "build_bento", build)
    with pytest.raises(ReleaseRefused, match="automation is frozen: somebody looks"):
        candidate.deploy(decision="d-1")
    assert current(stores).champion.version == 3


def test_one_that_is_not_everywhere_yet_stays_and_is_finished_by_the_next_attempt(candidate: Candidate):
    """Workers that were late once had a good candidate withdrawn for ever."""
    with Faltering(candidate.stores, at_last=503) as service:
        with pytest.raises(ChangeFailed, match=r"release 3: .* answers 503.*; it stays in force, run it again"):
            candidate.deploy()
        plan = current(candidate.stores)
        assert (plan.champion.version, plan.withdrawn) == (4, ())
        service.at_last = None
        made = candidate.deploy()
    assert (made.plan, made.is_new, made.smoke.passed) == (plan, False, True)
    assert registry_of(candidate.stores).aliased("delay", "champion") == 4


def test_one_that_an_attempt_before_has_published_is_withdrawn_where_it_does_not_hold(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch
):
    """A version that answers wrongly stayed in service, where the first attempt had found nobody to ask."""
    with Faltering(candidate.stores, at_last=503), pytest.raises(ChangeFailed, match="run it again"):
        candidate.deploy()
    assert current(candidate.stores).champion.version == 4

    def wait(*_given: Any) -> int:
        if current(candidate.stores).champion.version == 4:
            raise RefusedByWorker("worker w refuses it")
        return 0

    monkeypatch.setattr(confirm, "wait_until_live", wait)
    with pytest.raises(ReleaseRefused, match="worker w refuses it"):
        candidate.deploy()
    plan = current(candidate.stores)
    assert (plan.champion.version, plan.withdrawn) == (3, (4,))


@pytest.mark.parametrize("followed", [False, True])
def test_one_that_a_worker_refuses_is_withdrawn_unless_another_plan_has_followed(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch, followed: bool
):
    def wait(home: Home, model: str, number: int, timeout: float) -> int:
        if followed and number == 3:
            plan = msgspec.structs.replace(current(candidate.stores), release=4, previous=3)
            candidate.stores.releases.publish(plan)
        raise RefusedByWorker("worker w refuses it")

    monkeypatch.setattr(confirm, "wait_until_live", wait)
    with pytest.raises(ChangeFailed if followed else ReleaseRefused, match="worker w refuses it"):
        candidate.deploy()
    plan = current(candidate.stores)
    assert (plan.release, plan.champion.version, plan.withdrawn) == (4, *((4, ()) if followed else (3, (4,))))
