"""What a refusal says of a request that does not fit."""

import msgspec
import pytest

from mlops_assets.serving.contract import refusal_of


class Known(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing that is asked for."""


@pytest.mark.parametrize("length", [5, 100, 10_000])
def test_an_answer_to_an_unknown_field_stays_short_however_many_there_are(length: int):
    names = tuple(f"{number:0{length}}" for number in range(500))
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(b'{"x": 1}', type=Known)
    assert isinstance(caught.value, msgspec.ValidationError)
    message = refusal_of(caught.value, b"", {"": names}).message
    assert len(message) < 500
    told, _, more = message.removeprefix("there is no such field; there are ").rpartition(" and ")
    assert all(name in names or length > 400 for name in told.split(", "))
    assert more == f"{500 - len(told.split(', '))} more"
