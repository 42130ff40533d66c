from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from mlops_assets.core.rollout import Challenger, Release, ReleasePlan, Standby, promotion, withdrawal

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)


def release(version: int) -> Release:
    return Release(version, f"sha256:{version:064x}")


def promote(current: ReleasePlan | None, version: int, **changes: Any) -> ReleasePlan:
    given = {
        "model": "delay",
        "champion": release(version),
        "fallback_value": 0.24,
        "rollout": f"r-{version}",
        "salt": "salt",
        "reason": "the gates passed",
        "decided_by": "user:tests",
        "decided_at": NOON,
        "as_of": NOON,
        **changes,
    }
    return promotion(current, **given)


def withdraw(plan: ReleasePlan) -> ReleasePlan:
    return withdrawal(plan, reason="it answers nonsense", decided_by="sensor:rollout", decided_at=LATER)


def test_the_first_plan_follows_nothing() -> None:
    plan = promote(None, 4)
    assert (plan.release, plan.previous, plan.champion, plan.last_good) == (1, 0, release(4), None)
    assert (plan.challenger, plan.standby, plan.withdrawn) == (None, None, ())


def test_a_promotion_follows_the_current_plan_and_remembers_its_champion() -> None:
    plan = promote(promote(None, 4), 6)
    assert (plan.release, plan.previous, plan.champion, plan.last_good) == (2, 1, release(6), release(4))


def test_a_promotion_ends_the_trials_of_the_current_plan() -> None:
    current = msgspec.structs.replace(
        promote(None, 4),
        challenger=Challenger(5, release(5).bundle, "canary", 0.1),
        standby=Standby(3, release(3).bundle, LATER),
        withdrawn=(2,),
    )
    plan = promote(current, 6)
    assert (plan.challenger, plan.standby, plan.withdrawn) == (None, None, (2,))


def test_a_withdrawal_serves_the_last_good_version_again() -> None:
    plan = withdraw(promote(promote(None, 4), 6))
    assert (plan.release, plan.previous, plan.champion, plan.last_good) == (3, 2, release(4), None)
    assert plan.withdrawn == (6,)
    assert (plan.reason, plan.decided_by, plan.decided_at) == ("it answers nonsense", "sensor:rollout", LATER)


def test_a_withdrawn_version_never_returns() -> None:
    plan = withdraw(promote(promote(None, 4), 6))
    with pytest.raises(ValueError, match="'delay': version 6 was withdrawn and never returns; train a new one"):
        promote(plan, 6)
    after = promote(plan, 7)
    assert after.withdrawn == (6,)
    assert after.last_good == release(4)
    assert withdraw(after).withdrawn == (6, 7)


def test_without_a_last_good_version_nothing_can_be_withdrawn() -> None:
    with pytest.raises(ValueError, match="release 1 knows no last good version to go back to"):
        withdraw(promote(None, 4))


def test_a_plan_reads_back_from_json_and_refuses_what_it_does_not_know() -> None:
    plan = promote(promote(None, 4), 6, fallback_value="late")
    encoded = msgspec.json.encode(plan)
    assert msgspec.json.decode(encoded, type=ReleasePlan) == plan
    strange = {**msgspec.json.decode(encoded), "colour": "red"}
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert(strange, ReleasePlan)
    assert plan == msgspec.structs.replace(plan)
    with pytest.raises(AttributeError):
        plan.release = 9  # type: ignore[misc]
