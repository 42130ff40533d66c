"""Keys are kept as hashes, open until they are revoked or expire, and stay on record."""

import hashlib
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops_assets.stores.api_keys import PERMISSIONS, ApiKeysDamaged, ApiKeyStore, KeyRing, UnknownKey

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> ApiKeyStore:
    return ApiKeyStore(tmp_path / "home")


def opens(store: ApiKeyStore, secret: str, at: datetime = NOW) -> bool:
    return KeyRing(store.all()).verify(secret.encode(), at.timestamp()) is not None


def test_a_key_opens_and_only_its_hash_is_kept(store: ApiKeyStore):
    key, secret = store.create("shop", ("predict",), "user:ann", NOW)

    assert opens(store, secret)
    assert key.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert secret.startswith(f"mlops_{key.id}_")
    content = store.path.read_text()
    assert secret not in content
    assert secret.rpartition("_")[2] not in content
    assert store.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("change", ["one letter", "another id", "no prefix", "longer", "empty", "not ASCII"])
def test_what_is_not_the_key_does_not_open(store: ApiKeyStore, change: str):
    _, secret = store.create("shop", ("predict",), "user:ann", NOW)
    other, _ = store.create("other", ("predict",), "user:ann", NOW)
    last = "A" if secret[-1] != "A" else "B"
    wrong = {
        "one letter": secret[:-1] + last,
        "another id": f"mlops_{other.id}{secret[18:]}",
        "no prefix": secret[6:],
        "longer": secret + "A",
        "empty": "",
        "not ASCII": secret[:-1] + "é",
    }[change]
    assert not opens(store, wrong)


def test_an_expired_key_does_not_open(store: ApiKeyStore):
    _, secret = store.create("trial", ("predict",), "user:ann", NOW, NOW + timedelta(days=1))
    assert opens(store, secret, NOW + timedelta(hours=23))
    assert not opens(store, secret, NOW + timedelta(days=1))


def test_a_revoked_key_does_not_open_and_stays_on_record(store: ApiKeyStore):
    key, secret = store.create("shop", ("predict", "feedback"), "user:ann", NOW)

    store.revoke(key.id, "user:bob", NOW)
    store.revoke(key.id, "user:eve", NOW + timedelta(days=1))

    assert not opens(store, secret)
    (kept,) = store.all()
    assert (kept.revoked_by, kept.revoked_at, kept.scopes) == ("user:bob", NOW, ("predict", "feedback"))


def test_an_unknown_key_cannot_be_revoked(store: ApiKeyStore):
    with pytest.raises(UnknownKey, match="keys list"):
        store.revoke("0123456789ab", "user:ann", NOW)


def test_a_key_must_open_something_and_not_have_expired(store: ApiKeyStore):
    with pytest.raises(ValueError, match="choose from predict, explain, feedback, admin"):
        store.create("nothing", (), "user:ann", NOW)
    with pytest.raises(ValueError, match="expired"):
        store.create("late", ("predict",), "user:ann", NOW, NOW)


def test_keys_made_at_the_same_time_are_all_kept(store: ApiKeyStore):
    threads = [
        threading.Thread(target=lambda n=number: store.create(f"{n}", ("predict",), "user:ann", NOW))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in store.all()} == {str(number) for number in range(8)}


def test_the_stamp_changes_with_the_keys(store: ApiKeyStore):
    stamps = [store.stamp()]
    key, _ = store.create("shop", ("predict",), "user:ann", NOW)
    stamps.append(store.stamp())
    store.revoke(key.id, "user:ann", NOW)
    stamps.append(store.stamp())
    assert len(set(stamps)) == 3


def test_damaged_keys_are_refused_with_a_remedy(store: ApiKeyStore):
    store.create("shop", ("predict",), "user:ann", NOW)
    store.path.write_bytes(store.path.read_bytes()[:-5])
    with pytest.raises(ApiKeysDamaged, match="backup"):
        store.all()


class TestThePlatformsOwnKey:
    def test_it_is_made_once_with_every_scope(self, store: ApiKeyStore):
        assert store.internal() is None
        store.ensure_internal(NOW)
        secret = store.internal()
        store.ensure_internal(NOW)

        assert secret is not None
        assert store.internal() == secret
        assert opens(store, secret)
        (key,) = store.all()
        assert key.scopes == PERMISSIONS
        assert (store.path.parent / "api_key.internal").stat().st_mode & 0o777 == 0o600

    def test_a_revoked_one_is_made_anew(self, store: ApiKeyStore):
        store.ensure_internal(NOW)
        former = store.internal()
        store.revoke(store.all()[0].id, "user:ann", NOW)

        store.ensure_internal(NOW)

        assert store.internal() != former
        assert len(store.all()) == 2

    def test_one_from_before_there_was_a_scope_is_made_anew(self, store: ApiKeyStore, tmp_path: Path):
        key, secret = store.create("internal", ("predict", "feedback", "admin"), "the service", NOW)
        (store.path.parent / "api_key.internal").write_text(secret)

        store.ensure_internal(NOW)

        assert store.internal() != secret
        assert [one.scopes for one in store.all()] == [key.scopes, PERMISSIONS]
