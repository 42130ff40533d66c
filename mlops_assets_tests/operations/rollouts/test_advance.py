"""Trials from their begin to their end: what is counted, what follows, and that nothing follows twice."""

import os
import shutil
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlops_assets.core.ledger import Decided, Ended, Entry, Frozen, Opened, Released, Started, Thawed
from mlops_assets.core.records import LabelRecord
from mlops_assets.core.sequential import Errors
from mlops_assets.core.trials.facts import TrialBegan
from mlops_assets.operations import rollback
from mlops_assets.operations.live_traffic import compact
from mlops_assets.operations.rollouts import evidence
from mlops_assets.operations.rollouts.advance import BUNDLE
from mlops_assets.operations.rollouts.evidence import seen_in_trial, tripped
from mlops_assets.operations.rollouts.rows import TrialRows
from mlops_assets.stores.workers import BreakerReport, LoadedRelease, LoadedVersion, WorkerState
from mlops_assets_tests.operations.trial_examples import CANARY, Trying, assert_replays, facts
from mlops_assets_tests.serving.factory import corrupt


@pytest.fixture
def trying(tmp_path: Path) -> Trying:
    return Trying(tmp_path)


def by_hand(trying: Trying) -> dict[str, object]:
    return {"reason": "a test", "decided_by": "user:ann", "now": datetime.now(UTC)}


def test_without_a_trial_nothing_is_done(trying: Trying):
    assert trying.advance().said == "nothing is on trial"
    assert facts(trying, TrialBegan) == []


def test_a_good_version_goes_from_shadow_through_each_share_and_takes_over(trying: Trying):
    trying.start()
    trying.log(800, champion=0.75, challenger=0.9)
    assert trying.until_rest() == ["canary"]
    assert trying.plan.challenger is not None
    assert (trying.plan.challenger.mode, trying.plan.challenger.share) == ("canary", 0.05)
    for _ in range(12):
        trying.log(2500, champion=0.75, challenger=0.9)
        trying.advance()
        if trying.plan.challenger is None:
            break
    assert trying.steps == ["canary", "widen", "widen", "promote"]
    plan = trying.plan
    assert (plan.champion.version, plan.standby.version if plan.standby else None) == (2, 1)
    assert trying.trial.promoted
    assert trying.trial.is_open, "the bake goes on"
    [released] = [one for one in facts(trying, Released) if isinstance(one, Released) and one.version == 2]
    assert (released.strategy, released.automated, released.former) == ("shadow-then-canary", True, 1)
    assert_replays(trying)


def test_a_bad_version_goes_before_it_answers_anybody(trying: Trying):
    trying.start()
    trying.log(800, champion=0.8, challenger=0.55)
    assert trying.until_rest() == ["dismiss"]
    assert (trying.plan.champion.version, trying.plan.challenger, trying.plan.withdrawn) == (1, None, (2,))
    assert not trying.trial.is_open
    [incident] = trying.record.open_incidents
    assert incident.cause == "gates"
    assert trying.record.refusals[-1][1].version == 2
    assert_replays(trying)


def test_a_version_that_fails_in_shadow_goes(trying: Trying):
    trying.start()
    trying.log(200, status=500, output=(), error="it broke")
    assert trying.until_rest() == ["dismiss"]
    assert trying.trial.looked is not None
    assert "errors worse" in trying.trial.looked.reason


def test_a_bad_canary_is_dismissed_at_its_first_share(tmp_path: Path):
    trying = Trying(tmp_path, **CANARY)
    trying.start()
    for _ in range(6):
        trying.log(500, champion=0.85, challenger=0.3)
        if trying.until_rest():
            break
    assert trying.steps == ["dismiss"]
    assert (trying.plan.champion.version, trying.plan.withdrawn) == (1, (2,))
    assert_replays(trying)


def test_pairs_are_counted_also_where_no_window_is_over_and_labels_come_late(trying: Trying):
    trying.start()
    trying.log(300, labels=False)
    trying.advance()
    seen = seen_in_trial(trying.spec, trying.stores, trying.trial, trying.history)
    assert (seen.answered, seen.evidence["errors"]) == (0, (Errors(300, 0, 0),))
    trying.log(100, champion=1.0, challenger=0.0)
    compact(trying.spec, trying.stores, "2013-03-01")
    seen = seen_in_trial(trying.spec, trying.stores, trying.trial, trying.history)
    assert seen.evidence["quality"] == (Errors(100, 100, 0),)
    assert seen.evidence["errors"] == (Errors(400, 0, 0),)
    assert seen.waited_s == 399 * 60


def test_of_an_entity_the_first_answer_counts(tmp_path: Path):
    trying = Trying(tmp_path, **CANARY)
    trying.start()
    trying.entities = 200
    trying.log(200, champion=0.0, challenger=1.0)
    trying.log(200, champion=1.0, challenger=0.0)
    trying.advance()
    assert trying.trial.looked is not None
    seen = trying.trial.looked.seen
    [quality] = seen.evidence["quality"]
    assert isinstance(quality, Errors)
    assert (quality.samples, quality.candidate, quality.share) == (200, 0, seen.answered / 2 / 200)
    assert 200 - quality.champion == seen.answered / 2, "all labelled answers of the challenger are told all the same"


def test_a_look_is_written_when_it_says_something_new_or_rests_on_more(trying: Trying):
    trying.start()
    trying.log(40)
    first = trying.advance()
    assert first.looked is not None
    assert trying.advance(first.stamp).said == "nothing new"
    assert trying.advance().looked is None
    trying.log(10)
    assert trying.advance().looked is not None


def test_one_that_the_workers_have_ceased_to_ask_goes_at_once(trying: Trying):
    plan, now = trying.start(), datetime.now(UTC)
    assert plan.challenger is not None
    breaker = BreakerReport("open", 3, "30 of 50 requests failed")
    loaded = LoadedVersion(2, plan.challenger.bundle, "shadow", breaker=breaker)
    serving = LoadedRelease(plan.release, 1, plan.champion.bundle, now, challenger=loaded)
    state = WorkerState("w-1", os.getpid(), socket.gethostname(), now, now, {"delay": serving}, {})
    assert tripped(trying.stores, plan, now) is None
    trying.stores.workers.report(state)
    assert tripped(trying.stores, plan, now) == "worker w-1 has ceased to ask it 3 times: 30 of 50 requests failed"


def test_beside_a_champion_that_is_lost_nothing_is_compared_and_nobody_is_dismissed(trying: Trying):
    trying.start()
    trying.log(800, champion=0.8, challenger=0.55)
    bundle = trying.plan.champion.bundle
    copy = trying.stores.home.root / "copy" / bundle.removeprefix("sha256:")
    shutil.copytree(trying.stores.bundles.path(bundle), copy)
    corrupt(trying.stores.home, bundle)
    assert trying.advance().said.startswith("nothing is compared beside version 1: ")
    assert (trying.steps, trying.plan.challenger is not None, trying.plan.withdrawn) == ([], True, ())
    trying.stores.bundles.add_folder(copy)
    assert trying.until_rest() == ["dismiss"]


def test_one_whose_bundle_is_out_of_reach_waits_for_it_and_one_whose_bundle_is_lost_goes(
    trying: Trying, monkeypatch: pytest.MonkeyPatch
):
    def out_of_reach(*_: object) -> Path:
        raise OSError("the network is down")

    trying.start()
    trying.log(800, champion=0.75, challenger=0.9)
    challenger = trying.plan.challenger
    assert challenger is not None
    copy = trying.stores.home.root / "copy" / challenger.bundle.removeprefix("sha256:")
    shutil.copytree(trying.stores.bundles.path(challenger.bundle), copy)
    corrupt(trying.stores.home, challenger.bundle)
    with monkeypatch.context() as patch:
        patch.setattr(trying.stores.registry, "fetch_folder", out_of_reach)
        for _ in range(3):
            said = trying.advance().said
            assert said.startswith("canary of version 2 waits until its bundle can be had: ")
            assert said.endswith("the network is down")
    assert (trying.steps, trying.plan.challenger) == ([], challenger)
    [waits] = [one for one in trying.record.open_incidents if one.cause == BUNDLE]
    assert waits.title.startswith("canary of version 2 waits")
    assert waits.times_found == 1
    trying.stores.bundles.add_folder(copy)
    assert trying.until_rest() == ["canary"]
    assert [one for one in trying.record.open_incidents if one.cause == BUNDLE] == []
    corrupt(trying.stores.home, challenger.bundle)
    for _ in range(3):
        trying.log(2500, champion=0.75, challenger=0.9)
        trying.advance()
    assert trying.steps[-1] == "dismiss"
    assert trying.plan.withdrawn == (2,)
    assert_replays(trying)


def test_one_that_the_workers_have_ceased_to_ask_goes_also_beside_a_champion_that_is_lost(
    trying: Trying, monkeypatch: pytest.MonkeyPatch
):
    plan = trying.start()
    trying.log(40)
    trying.advance()
    corrupt(trying.stores.home, plan.champion.bundle)
    trying.log(40)
    assert trying.advance().said.startswith("nothing is compared beside version 1: ")
    why = "worker w-1 has ceased to ask it 3 times"
    monkeypatch.setattr(evidence, "tripped", lambda *_: why)
    assert trying.until_rest() == ["dismiss"]
    assert (trying.plan.challenger, trying.plan.withdrawn) == (None, (2,))
    assert trying.trial.stepped is not None
    assert trying.trial.stepped.reason == why
    assert_replays(trying)


def test_frozen_nothing_is_promoted_and_what_is_worse_goes(trying: Trying):
    def tell(fact: Frozen | Thawed) -> None:
        trying.stores.ledger.record(Entry("delay", "delay", fact, "user:ann", datetime.now(UTC)))

    trying.start()
    tell(Frozen("an audit"))
    trying.log(800, champion=0.75, challenger=0.9)
    held = trying.advance()
    assert held.said == "frozen: canary waits"
    assert trying.advance(held.stamp).said == "nothing new"
    assert trying.steps == []
    tell(Thawed("it is over"))
    trying.advance(held.stamp)
    assert trying.steps == ["canary"]
    tell(Frozen("another audit"))
    trying.log(4000, champion=0.9, challenger=0.1)
    trying.advance()
    assert trying.steps == ["canary", "dismiss"]


def test_what_takes_too_long_is_inconclusive_and_may_come_back(tmp_path: Path):
    trying = Trying(tmp_path, shadow={"min_samples": 50, "patience": "2h"})
    trying.start()
    trying.log(200, labels=False)
    assert trying.until_rest() == ["inconclusive"]
    assert (trying.plan.champion.version, trying.plan.challenger, trying.plan.withdrawn) == (1, None, ())
    assert [one.cause for one in trying.record.open_incidents] == ["gates"]


def test_a_newer_one_or_a_person_ends_a_trial(trying: Trying):
    trying.start()
    trying.log(20)
    trying.advance()
    rollback.force_release(trying.spec, trying.stores, 2, **by_hand(trying))  # type: ignore[arg-type]
    assert trying.advance().said == "nothing is on trial"
    assert trying.steps == ["superseded"]


def test_the_incident_that_asked_for_it_is_mitigated_by_the_promotion(tmp_path: Path):
    trying = Trying(tmp_path, strategy="shadow")

    def tell(subject: str, fact: object) -> None:
        trying.stores.ledger.record(Entry("delay", subject, fact, "sensor:delay_response", datetime.now(UTC)))  # type: ignore[arg-type]

    tell("delay/performance/1", Opened("performance", "it has decayed", "critical"))
    tell("d-1", Decided("retrain", "auto", "it has decayed", incidents=("delay/performance/1",)))
    tell("d-1", Started(1, "lifecycle"))
    tell("d-1", Ended("on trial", 1, "lifecycle", "version 2 is tried"))
    trying.start()
    trying.log(20)
    trying.advance()
    assert trying.record.incidents[0].mitigated_at is None
    trying.log(800, champion=0.75, challenger=0.9)
    assert trying.until_rest() == ["promote"]
    assert trying.record.incidents[0].mitigated_by is not None
    assert trying.record.decisions[0].is_final


def test_between_identical_versions_nothing_is_found_out_and_the_champion_stays(tmp_path: Path):
    trying = Trying(tmp_path, shadow={"min_samples": 50, "max_samples": 300})
    trying.start()
    trying.log(299, identical=True)
    assert trying.until_rest() == []
    trying.log(1, identical=True)
    assert trying.until_rest() == ["inconclusive"]
    assert trying.trial.looked is not None
    assert trying.trial.looked.reason == "quality inconclusive after 300 samples"
    assert trying.trial.looked.seen.evidence["quality"] == (Errors(300, 0, 0),)
    assert (trying.plan.champion.version, trying.plan.challenger, trying.plan.withdrawn) == (1, None, ())
    assert_replays(trying)


def test_values_fed_back_decide_too(tmp_path: Path):
    conversion = {"name": "conversion", "matters": 0.2, "usual": 0.5}
    trying = Trying(tmp_path, **{**CANARY, "metrics": [conversion], "canary": {"shares": [0.5], "min_samples": 20}})
    trying.start()
    trying.log(600, champion=0.7, challenger=0.9)
    trying.advance()
    rows = TrialRows(trying.spec, trying.stores, trying.plan).frame
    assert rows is not None
    now = datetime.now(UTC)
    trying.write(
        *(
            LabelRecord("delay", "conversion", float(role == "champion"), now, now, id=name)
            for name, role in zip(rows["id"], rows["role"], strict=True)
        )
    )
    assert trying.until_rest() == ["dismiss"]
    assert trying.trial.looked is not None
    assert "conversion worse" in trying.trial.looked.reason
    assert_replays(trying)
