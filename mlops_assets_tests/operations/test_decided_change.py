"""What is said of a way back: whom it has withdrawn, also when it is carried out again after others."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlops_assets.core.ledger import Decided, Decision
from mlops_assets.core.rollout import Origin, reversal
from mlops_assets.operations.decided_change import KEEPING, DecidedChange, change_as_decided
from mlops_assets.operations.stores import Stores
from mlops_assets_tests.operations.rollback_examples import NOON, current, released, three_released
from mlops_assets_tests.serving.factory import small_spec


def go_back(stores: Stores, details: dict[str, str]) -> DecidedChange:
    decided = Decided("roll back", "auto", "it is worse", None, (), (), details, "")
    decision = Decision("d-1", "delay", decided, NOON, NOON, "user:ann")
    return change_as_decided(small_spec(), stores, decision, datetime.now(UTC), is_last_attempt=False)


@pytest.mark.parametrize(("details", "gone"), [({}, ["3"]), (dict(KEEPING), [])], ids=["withdrawn", "kept"])
def test_the_version_that_answered_is_named_whatever_was_taken_back_since(
    tmp_path: Path, details: dict[str, str], gone: list[str]
) -> None:
    stores = three_released(tmp_path)
    first = go_back(stores, details)
    before = current(stores)
    released(stores, 4)
    origin = Origin("r-4", "refused by workers", "run:x", NOON)
    stores.releases.publish(reversal(current(stores), before, origin, withdraw=True))
    assert (current(stores).rollout, current(stores).withdrawn[-1]) == ("d-1", 4)
    again = go_back(stores, details)
    for one in (first, again):
        assert one.outcome == "done"
        assert [part.split()[1] for part in one.detail.split("; ") if "never returns" in part] == gone
