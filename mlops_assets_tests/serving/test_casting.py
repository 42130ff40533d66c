"""Rows for a version whose contract is not the champion's, and who is not fit for them."""

import msgspec
import pytest

from mlops_assets.core.manifest import FeatureContract, Manifest
from mlops_assets.serving.casting import Unfit, _arrangement
from mlops_assets_tests.stores.test_bundles import MANIFEST

TEMP, SEATS, CARRIER = (
    FeatureContract("temp", "number"),
    FeatureContract("seats", "integer"),
    FeatureContract("carrier", "category"),
)


def manifest(version: int, *features: FeatureContract) -> Manifest:
    return msgspec.structs.replace(MANIFEST, version=version, features=features)


CHAMPION = manifest(1, TEMP, SEATS, CARRIER)


def test_the_same_contract_needs_no_arranging():
    assert _arrangement(CHAMPION, manifest(2, TEMP, SEATS, CARRIER)) is None


def test_rows_come_in_the_others_own_order_without_what_it_does_not_take():
    reordered = _arrangement(CHAMPION, manifest(2, CARRIER, TEMP))
    assert reordered is not None
    assert reordered((50.5, 100.0, "AA")) == ("AA", 50.5)


def test_a_number_may_have_become_a_whole_one():
    seats = msgspec.structs.replace(SEATS, type="number")
    assert _arrangement(CHAMPION, manifest(2, TEMP, seats, CARRIER)) is None


def test_who_needs_what_callers_do_not_send_is_unfit():
    with pytest.raises(Unfit, match="version 2 needs wind, which callers of version 1 do not send"):
        _arrangement(CHAMPION, manifest(2, TEMP, FeatureContract("wind", "number")))


@pytest.mark.parametrize("change", [{"type": "category"}, {"nullable": False}])
def test_who_takes_a_value_otherwise_is_unfit(change: dict[str, object]):
    with pytest.raises(Unfit, match="version 2 takes temp otherwise than version 1 does"):
        _arrangement(CHAMPION, manifest(2, msgspec.structs.replace(TEMP, **change), SEATS, CARRIER))
