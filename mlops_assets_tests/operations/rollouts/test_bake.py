"""After a promotion: the former champion is compared with, gone back to, let go, or lost."""

import os
import shutil
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlops_assets.core.ledger import Released
from mlops_assets.core.scoring.scorer import ScorerError
from mlops_assets.core.service_counts import ServiceCounts
from mlops_assets.operations.bento import bento_path
from mlops_assets.operations.guard import watch_release
from mlops_assets.operations.rollouts import evidence
from mlops_assets.operations.rollouts.advance import BAKE, Rollouts
from mlops_assets.stores.workers import LoadedRelease, WorkerState
from mlops_assets_tests.operations.trial_examples import Trying, assert_replays, facts, promoted
from mlops_assets_tests.serving.factory import corrupt

DAY = 24 * 60


def lose_standby(trying: Trying) -> Path:
    """Damage its bundle; a whole copy of it is returned."""
    assert trying.plan.standby is not None
    bundle = trying.plan.standby.bundle
    copy = trying.stores.home.root / "copy" / bundle.removeprefix("sha256:")
    shutil.copytree(trying.stores.bundles.path(bundle), copy)
    corrupt(trying.stores.home, bundle)
    return copy


def incident(trying: Trying) -> object:
    return next((one for one in trying.record.open_incidents if one.cause == BAKE), None)


def test_after_the_promotion_one_that_is_worse_than_the_standby_is_taken_back(tmp_path: Path):
    trying = promoted(tmp_path)
    trying.log_real(1000, truth_of=1)
    assert trying.until_rest() == ["promote", "roll back"]
    assert (trying.plan.champion.version, trying.plan.withdrawn, trying.plan.standby) == (1, (2,), None)
    assert not trying.trial.is_open
    last = facts(trying, Released)[-1]
    assert isinstance(last, Released)
    assert (last.version, last.strategy, last.automated) == (1, "rollback", True)
    assert_replays(trying)


def test_who_is_stopped_while_taking_back_finishes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trying = promoted(tmp_path)
    trying.log_real(1000, truth_of=1)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Rollouts, "_stepped", stop)
        with pytest.raises(KeyboardInterrupt):
            trying.until_rest()
    assert (trying.plan.champion.version, trying.plan.standby) == (1, None), "the plan is made, and nothing noted"
    assert trying.until_rest() == ["promote", "roll back"]
    assert [one.version for one in facts(trying, Released)] == [1, 2, 1]


def test_after_the_bake_time_the_standby_is_let_go(tmp_path: Path):
    trying = promoted(tmp_path)
    trying.log_real(1000, truth_of=2)
    assert trying.until_rest() == ["promote"]
    trying.asked += 3 * 24 * 60
    trying.log(20)
    assert trying.until_rest() == ["promote", "settle"]
    assert (trying.plan.champion.version, trying.plan.standby) == (2, None)
    assert not trying.trial.is_open


def test_a_bake_with_too_few_samples_keeps_the_standby(tmp_path: Path):
    """It was over when its time was, whatever had been compared."""
    trying = promoted(tmp_path)
    trying.log_real(20, truth_of=2)
    trying.asked += 3 * 24 * 60
    trying.log_real(20, truth_of=2)
    said = trying.advance().said
    assert "too few samples: 40 of 50; the former champion stays until then" in said
    assert (trying.steps, trying.plan.standby is not None) == (["promote"], True)
    trying.log_real(20, truth_of=2)
    assert trying.until_rest() == ["promote", "settle"]


def test_a_bake_whose_standby_is_lost_says_so_and_ends_with_its_time(tmp_path: Path):
    """It waited for ever for samples that could not come any more."""
    trying = promoted(tmp_path)
    trying.log_real(40, truth_of=2)
    trying.advance()
    lose_standby(trying)
    trying.log_real(40, truth_of=2)
    told = "quality cannot be compared with the former champion any more, after 40 samples: the bundle of version 1 is lost"
    assert trying.advance().said.startswith(f"bake at 1: {told}")
    looked = trying.trial.looked
    assert looked is not None
    assert (looked.step, looked.seen.samples) == ("keep looking", 40)
    assert incident(trying) is not None
    trying.log_real(40, truth_of=2)
    assert trying.advance().looked is None, "it is told once"
    trying.asked += 3 * DAY
    trying.log_real(1, truth_of=2)
    assert trying.until_rest() == ["promote", "not comparable"]
    assert (trying.plan.champion.version, trying.plan.standby, trying.plan.withdrawn) == (2, None, ())
    assert (trying.trial.is_open, incident(trying)) == (False, None)
    assert trying.trial.stepped is not None
    assert trying.trial.stepped.reason.startswith(told)
    assert trying.advance().said == "nothing is on trial"
    assert_replays(trying)


def test_so_does_one_that_was_lost_before_anything_was_compared(tmp_path: Path):
    trying = promoted(tmp_path)
    lose_standby(trying)
    trying.log(20, labels=False)
    assert "after 0 samples" in trying.advance().said
    trying.asked += 3 * DAY
    trying.log(20, labels=False)
    assert trying.until_rest() == ["promote", "not comparable"]
    assert_replays(trying)


def test_a_standby_that_is_lost_is_put_back_from_a_copy_and_compared_on(tmp_path: Path):
    trying = promoted(tmp_path)
    copy = lose_standby(trying)
    trying.log_real(40, truth_of=2)
    assert "cannot be compared" in trying.advance().said
    trying.stores.bundles.add_folder(copy)
    trying.log_real(40, truth_of=2)
    assert trying.advance().said == "bake at 1: undecided after 80 samples"
    assert incident(trying) is None
    assert trying.plan.standby is not None
    carried = bento_path(trying.stores.home, "predictor:1") / "src" / "carried" / "bundles" / copy.name
    shutil.copytree(copy, carried)
    corrupt(trying.stores.home, trying.plan.standby.bundle)
    trying.log_real(40, truth_of=2)
    assert trying.advance().said == "bake at 1: undecided after 120 samples"
    assert trying.stores.bundles.get(trying.plan.standby.bundle).manifest.version == 1
    assert_replays(trying)


def test_a_bake_whose_standby_refuses_a_row_ends_with_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trying = promoted(tmp_path)
    trying.log_real(40, truth_of=2)
    trying.advance()

    def refuse(*_: object) -> None:
        raise ScorerError("carrier: 'ZZ' is not one of AA, UA")

    monkeypatch.setattr(evidence, "ask_again", refuse)
    trying.log_real(40, truth_of=2)
    told = "quality cannot be compared with the former champion any more, after 40 samples: version 1 refuses what callers send"
    assert trying.advance().said.startswith(f"bake at 1: {told}: carrier: 'ZZ'")
    trying.asked += 3 * DAY
    trying.log_real(1, truth_of=2)
    assert trying.until_rest() == ["promote", "not comparable"]
    assert (trying.plan.champion.version, trying.plan.standby) == (2, None)
    assert_replays(trying)


def test_a_fresh_release_is_watched_on_where_its_standby_is_lost(tmp_path: Path):
    trying = promoted(tmp_path)
    lose_standby(trying)
    trying.log_real(20, truth_of=2)
    trying.advance()
    plan, now = trying.plan, datetime.now(UTC)
    counts = ServiceCounts(answered=50, failed=50)
    loaded = LoadedRelease(plan.release, 2, plan.champion.bundle, now, counts, refused={"standby": "BundleError: lost"})
    state = WorkerState("w", os.getpid(), socket.gethostname(), now, now, {"delay": loaded}, {})
    trying.stores.workers.report(state)
    finding = watch_release(trying.spec, trying.stores, now)
    assert finding is not None
    assert (finding.version, finding.verdict.trouble) == (2, "errors")
