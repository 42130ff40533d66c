import msgspec
import numpy as np
import pandas as pd

from mlops_assets.core.contract import make_contract, raw_rows
from mlops_assets.core.schema import validate
from mlops_assets_tests.core.examples import make_frame, make_spec

SPEC = make_spec()


def test_levels_are_the_declared_ones_else_those_seen() -> None:
    contract = {one.name: one for one in make_contract(SPEC, make_frame(3, origin=["JFK", "EWR", "JFK"]))}
    assert tuple(contract) == SPEC.feature_names
    assert contract["carrier"].levels == ("AA", "UA")
    assert contract["origin"].levels == ("EWR", "JFK")
    assert (contract["temp"].levels, contract["temp"].minimum, contract["temp"].maximum) == (None, -40, 130)
    assert (contract["temp"].nullable, contract["origin"].nullable) == (True, False)


def test_a_category_without_any_value_has_no_levels() -> None:
    contract = {one.name: one for one in make_contract(SPEC, make_frame(3, origin=None))}
    assert contract["origin"].levels == ()


def test_rows_are_those_a_client_would_send() -> None:
    """A flag that validation holds as 1.0 was once sent as a number, which the service refuses."""
    frame = validate(
        SPEC,
        make_frame(
            2, temp=[1.5, None], seats=[3, np.nan], night=[True, None], carrier=["AA", None], origin=["", "JFK"]
        ),
    ).valid
    rows = raw_rows(make_contract(SPEC, frame), frame)
    assert rows == [(1.5, 3.0, True, "AA", ""), (None, None, None, None, "JFK")]
    assert msgspec.json.decode(msgspec.json.encode(rows[0])) == [1.5, 3.0, True, "AA", ""]
    assert rows[0][2] is True


def test_no_rows_give_no_rows() -> None:
    frame = make_frame(1).iloc[:0]
    assert raw_rows(make_contract(SPEC, pd.DataFrame(frame)), frame) == []
