"""Lost and wrong answers are found in the log, whatever the service said of them."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from mlops_assets.core.contract import raw_rows
from mlops_assets.core.records import LabelRecord, PredictionRecord, Role
from mlops_assets.core.rollout import (
    Origin,
    Release,
    ReleasePlan,
    Split,
    falling_back,
    masking,
    promoted,
    retirement,
    trial,
)
from mlops_assets.core.scoring.degraded import mask_of
from mlops_assets.core.scoring.load import load_scorer
from mlops_assets.drills.caller import Acknowledged
from mlops_assets.drills.verify import verify
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.prediction_log import LogWriter
from mlops_assets_tests.operations.rollback_examples import bundled, released, stores_in
from mlops_assets_tests.serving.factory import small_model

LATER = timedelta(minutes=10)


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return stores_in(tmp_path)


def answers(plan: ReleasePlan, served_at: datetime, count: int = 20) -> list[PredictionRecord]:
    """What the plan's champion answers, as it would be logged."""
    model = small_model(version=plan.champion.version)
    rows = raw_rows(model.manifest.features, model.fresh.head(count))
    scorer, mask = load_scorer(model.manifest, model.files), mask_of(model.manifest, plan.masked)
    outputs = scorer.score_rows([mask(row) for row in rows])
    return [
        PredictionRecord(
            id=f"{plan.release}-{number}",
            model=plan.model,
            version=plan.champion.version,
            bundle=plan.champion.bundle,
            release=plan.release,
            rollout=plan.rollout,
            role="fallback" if plan.fallen_back else "champion",
            event_time=served_at,
            served_at=served_at,
            features=tuple(row),
            output=(1 - 0.25, 0.25) if plan.fallen_back else tuple(output.tolist()),
        )
        for number, (row, output) in enumerate(zip(rows, outputs, strict=True))
    ]


def told(records: list[PredictionRecord]) -> list[Acknowledged]:
    return [
        Acknowledged(one.id, one.model, one.version, one.release, one.role, one.output, one.served_at)
        for one in records
    ]


def log(stores: Stores, records: list[PredictionRecord], labels: int = 0) -> None:
    writer, now = LogWriter(stores.home.prediction_log, "w"), datetime.now(UTC)
    writer.append(records)
    writer.append([LabelRecord("delay", "outcome", 1, now, now, id=f"1-{number}") for number in range(labels)])
    writer.close()


def publish(stores: Stores, plan: ReleasePlan) -> ReleasePlan:
    stores.releases.publish(plan)
    return plan


def origin(name: str) -> Origin:
    return Origin(name, "a test", "user:tests", datetime.now(UTC))


def backdate(stores: Stores, plan: ReleasePlan, by: timedelta) -> None:
    """A plan that was published earlier."""
    path = stores.releases.root / plan.model / f"{plan.release:08d}.json"
    then = (datetime.now(UTC) - by).timestamp()
    os.utime(path, (then, then))


def test_what_every_plan_says_is_right(stores: Stores):
    first = released(stores, 1)
    masked = publish(stores, masking(first, ("temp", "air port"), origin("d-mask")))
    fallen = publish(stores, falling_back(masked, origin("d-fall")))
    records = [one for plan in (first, masked, fallen) for one in answers(plan, datetime.now(UTC))]
    log(stores, records, labels=3)
    found = verify(stores, told(records), labels=3)
    assert (found.acknowledged, found.logged, found.lost, found.wrong) == (60, 60, 0, 0), found.examples


def test_what_is_not_in_the_log_is_lost(stores: Stores):
    records = answers(released(stores, 1), datetime.now(UTC))
    log(stores, records[2:], labels=1)
    found = verify(stores, told(records), labels=4)
    assert (found.lost, found.wrong) == (2 + 3, 0)
    assert "1-0: acknowledged by delay version 1 in release 1, and not in the log" in found.examples
    assert "3 of 4 acknowledged labels are not in the log" in found.examples


def test_an_answer_that_the_log_has_otherwise_is_wrong(stores: Stores):
    records = answers(released(stores, 1), datetime.now(UTC))
    log(stores, records)
    said = told(records)
    found = verify(stores, [msgspec.structs.replace(said[0], output=(0.5, 0.5)), *said[1:]], 0)
    assert (found.lost, found.wrong) == (0, 1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"output": (0.5, 0.5)}, "its bundle gives"),
        ({"version": 9}, "which is that of 1"),
        ({"release": 7}, "there are 1"),
        ({"role": "fallback"}, "answered as fallback"),
        ({"served_at": datetime(2013, 1, 1, tzinfo=UTC)}, "decided at"),
    ],
)
def test_an_answer_that_the_plan_does_not_account_for_is_wrong(stores: Stores, change: dict[str, object], why: str):
    records = answers(released(stores, 1), datetime.now(UTC))
    log(stores, [msgspec.structs.replace(records[0], **change), *records[1:]])
    found = verify(stores, [], 0)
    assert (found.lost, found.wrong) == (0, 1)
    assert why in found.examples[0]


def test_the_former_version_may_answer_while_workers_swap_and_not_for_ever(stores: Stores):
    first, second = released(stores, 1), released(stores, 2)
    log(stores, answers(first, datetime.now(UTC), 5))
    assert verify(stores, [], 0).wrong == 0
    backdate(stores, first, 2 * LATER)
    backdate(stores, second, LATER)
    found = verify(stores, [], 0)
    assert found.wrong == 5
    assert "long after another was published" in found.examples[0]


class TestTrials:
    """Version 1 is the champion, version 2 on trial; then it takes over, and version 1 stands by."""

    @staticmethod
    def on_trial(stores: Stores, mode: Literal["shadow", "canary"]) -> ReleasePlan:
        first = released(stores, 1)
        challenger = bundled(stores, small_model(version=2))
        return publish(stores, trial(first, challenger, mode, 0.5, origin("r-trial"), "pepper"))

    @staticmethod
    def as_role(plan: ReleasePlan, role: Role, version: int, bundle: str, **changes: object) -> list[PredictionRecord]:
        named = msgspec.structs.replace(plan, champion=Release(version, bundle))
        return [msgspec.structs.replace(one, role=role, **changes) for one in answers(named, datetime.now(UTC))]

    @pytest.mark.parametrize(("mode", "role"), [("canary", "challenger"), ("shadow", "shadow")])
    def test_the_challenger_speaks_for_its_share_alone(
        self, stores: Stores, mode: Literal["shadow", "canary"], role: Role
    ):
        plan = self.on_trial(stores, mode)
        assert plan.challenger is not None
        records = self.as_role(plan, role, 2, plan.challenger.bundle)
        inside = [one for one in records if Split("pepper", 0.5)(one.id)]
        assert 0 < len(inside) < len(records)
        log(stores, [*answers(plan, datetime.now(UTC)), *inside])
        assert verify(stores, told(inside), 0).wrong == 0
        log(stores, records)
        found = verify(stores, [], 0)
        assert found.wrong == len(records) - len(inside)
        assert "is not of its share" in found.examples[0]

    def test_a_standby_and_a_constant_must_say_what_ailed_the_champion(self, stores: Stores):
        first = released(stores, 1)
        second = bundled(stores, small_model(version=2))
        plan = publish(stores, promoted(first, second, datetime.now(UTC), origin("r-2")))
        why = {"error": "champion version 2: a fault"}
        standby = self.as_role(plan, "standby", 1, first.champion.bundle, **why)
        constant = self.as_role(plan, "fallback", 2, plan.champion.bundle, **why, output=(0.75, 0.25))
        log(stores, [*standby, *constant])
        found = verify(stores, [], 0)
        assert (found.logged, found.wrong) == (40, 0), found.examples
        log(stores, self.as_role(plan, "standby", 1, first.champion.bundle))
        log(stores, self.as_role(plan, "fallback", 2, plan.champion.bundle, output=(0.75, 0.25)))
        log(stores, self.as_role(plan, "fallback", 2, plan.champion.bundle, **why, output=(0.5, 0.5)))
        assert verify(stores, [], 0).wrong == 60


def test_a_retired_model_may_not_answer(stores: Stores):
    gone = publish(stores, retirement(released(stores, 1), "nobody asks", origin("d-retire")))
    log(stores, answers(gone, datetime.now(UTC), 5))
    assert verify(stores, [], 0).wrong == 5


def test_a_bundle_that_a_drill_has_damaged_is_fetched_for_the_proof(stores: Stores):
    plan = released(stores, 1)
    log(stores, answers(plan, datetime.now(UTC), 5))
    bundle = stores.bundles.path(plan.champion.bundle)
    copy = stores.home.bentoml / "bentos" / "predictor" / "1" / "src" / "carried" / "bundles" / bundle.name
    copy.parent.mkdir(parents=True)
    bundle.rename(copy)
    assert verify(stores, [], 0).wrong == 0
