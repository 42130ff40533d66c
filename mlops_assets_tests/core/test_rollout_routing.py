"""Who is in a challenger's share: as many as were declared, the same each time, and others in the next rollout."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlops_assets.core.rollout import Split

ENTITIES = [f"N{number}" for number in range(20_000)]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_share_is_the_declared_one(share: float) -> None:
    inside = sum(map(Split("pepper", share), ENTITIES))
    assert stats.binomtest(inside, len(ENTITIES), share).pvalue > 1e-4


def test_two_rollouts_choose_independently_of_each_other() -> None:
    one, other = Split("pepper", 0.5), Split("salt", 0.5)
    table = [[0, 0], [0, 0]]
    for entity in ENTITIES:
        table[one(entity)][other(entity)] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-4


@given(st.text(), st.text(max_size=16), st.floats(0, 1), st.floats(0, 1))
def test_whoever_is_in_a_share_is_in_every_larger_one(entity: str, salt: str, share: float, other: float) -> None:
    small, large = sorted((share, other))
    assert not Split(salt, small)(entity) or Split(salt, large)(entity)


@given(st.text(), st.text(max_size=16))
def test_all_and_none_are_shares_too(entity: str, salt: str) -> None:
    assert Split(salt, 1.0)(entity)
    assert not Split(salt, 0.0)(entity)


def test_it_is_the_keyed_hash_against_the_share_of_its_range() -> None:
    place = int.from_bytes(hashlib.blake2b(b"N14228", key=b"pepper", digest_size=8).digest())
    assert not Split("pepper", place / 2**64 - 1e-9)("N14228")
    assert Split("pepper", place / 2**64 + 1e-9)("N14228")


def test_half_a_surrogate_pair_is_a_key_too() -> None:
    assert Split("pepper", 1.0)("\ud800")
