"""The API keys of the service: who may ask, hashed, in one file under the state folder that is replaced in one step.

Who is asked for which scope is the business of `serving/door.py`.

A key holds 256 random bits, so that nobody can guess it even from its hash: a single SHA-256 protects it. The slow, salted hashes
that passwords need, since people choose them, would only cost time on the way to an answer.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

import msgspec

from mlops_assets.stores.files import locked, make_folder, write_whole

Permission = Literal["predict", "explain", "feedback", "admin"]
PERMISSIONS: tuple[Permission, ...] = get_args(Permission)
INTERNAL = "internal"

_PRESENTED = re.compile(rb"mlops_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
Stamp = tuple[int, int, int]


class ApiKeysDamaged(RuntimeError):
    """The file of keys cannot be read back as written."""


class UnknownKey(KeyError):
    """There is no key of this id."""

    def __str__(self) -> str:
        return str(self.args[0])


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a key: never the key. A revoked one stays, so that its id in a log can be told from whom it was."""

    id: str
    sha256: str
    name: str
    scopes: tuple[Permission, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str | None = None

    @property
    def expires(self) -> float:
        """Unix time from which on it is refused; infinity where it does not expire."""
        return float("inf") if self.expires_at is None else self.expires_at.timestamp()


class _Keys(msgspec.Struct, forbid_unknown_fields=True):
    keys: tuple[ApiKey, ...]


class KeyRing:
    """The keys that open something, by id. Immutable, and safe to share between threads."""

    def __init__(self, keys: Iterable[ApiKey] = ()):
        self._keys = {key.id: key for key in keys if key.revoked_at is None}

    def verify(self, presented: bytes, now: float) -> ApiKey | None:
        """The key that a caller presents; None for one that is unknown, wrong, revoked or, at Unix time `now`, expired.

        How long it takes tells whether an id exists, which is no secret, and nothing about the rest of the key.
        """
        match = _PRESENTED.fullmatch(presented)
        key = self._keys.get(match[1].decode()) if match else None
        if key is None or not hmac.compare_digest(hashlib.sha256(presented).hexdigest(), key.sha256):
            return None
        return key if now < key.expires else None


class ApiKeyStore:
    """The keys under one state folder. Any number of processes may read and change them.

    Parameters
    ----------
    root
        The state folder; the keys are in `api_keys.json`, and the platform's own key, for its own requests, in `api_key.internal`.
        Both can be read by their owner alone.
    """

    def __init__(self, root: Path):
        self.path = root / "api_keys.json"
        self._internal = root / "api_key.internal"
        self._lock = root / ".api_keys.lock"

    def all(self) -> tuple[ApiKey, ...]:
        """Every key ever made, oldest first. Raises `ApiKeysDamaged`."""
        try:
            encoded = self.path.read_bytes()
        except FileNotFoundError:
            return ()
        try:
            return msgspec.json.decode(encoded, type=_Keys).keys
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiKeysDamaged(
                f"{self.path} is not a file of API keys ({error}): put it back from a backup, or delete it and make new keys"
            ) from error

    def stamp(self) -> Stamp | None:
        """Changes whenever the keys do; None while there are none. Cheap enough to look at several times a second."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def create(
        self,
        name: str,
        scopes: tuple[Permission, ...],
        created_by: str,
        created_at: datetime,
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key; returns what is kept of it, and the key itself, which is told this once.

        Raises
        ------
        ValueError
            Without a scope, or with an expiry in the past.
        """
        if not scopes:
            raise ValueError(f"a key without a scope opens nothing: choose from {', '.join(PERMISSIONS)}")
        if expires_at is not None and expires_at <= created_at:
            raise ValueError(f"the key would have expired at {expires_at.isoformat()} already: choose a later time")
        make_folder(self.path.parent)
        with locked(self._lock):
            return self._add(name, scopes, created_by, created_at, expires_at)

    def revoke(self, key_id: str, revoked_by: str, revoked_at: datetime) -> ApiKey:
        """Take a key back, for good; one that was revoked before stays as it is. Raises `UnknownKey`."""
        make_folder(self.path.parent)
        with locked(self._lock):
            keys = {key.id: key for key in self.all()}
            if key_id not in keys:
                raise UnknownKey(f"there is no key {key_id!r}: `mlops-assets keys list` shows those there are")
            if keys[key_id].revoked_at is None:
                keys[key_id] = msgspec.structs.replace(keys[key_id], revoked_at=revoked_at, revoked_by=revoked_by)
                self._write(tuple(keys.values()))
            return keys[key_id]

    def internal(self) -> str | None:
        """The key with which the platform asks its own service; None before the first service with keys has started here."""
        try:
            return self._internal.read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None

    def ensure_internal(self, at: datetime) -> None:
        """Make the platform's own key, with all scopes there are, unless there is such a key that opens."""
        make_folder(self.path.parent)
        with locked(self._lock):
            present = self.internal()
            key = None if present is None else KeyRing(self.all()).verify(present.encode(), at.timestamp())
            if key is not None and set(PERMISSIONS) <= set(key.scopes):
                return
            _, secret = self._add(INTERNAL, PERMISSIONS, "the service", at, None)
            write_whole(self._internal, secret.encode(), mode=0o600)

    def _add(
        self,
        name: str,
        scopes: tuple[Permission, ...],
        created_by: str,
        created_at: datetime,
        expires_at: datetime | None,
    ) -> tuple[ApiKey, str]:
        key_id = os.urandom(6).hex()
        secret = f"mlops_{key_id}_{secrets.token_urlsafe(32)}"
        digest = hashlib.sha256(secret.encode()).hexdigest()
        key = ApiKey(key_id, digest, name, scopes, created_at, created_by, expires_at)
        self._write((*self.all(), key))
        return key, secret

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        write_whole(self.path, msgspec.json.format(msgspec.json.encode(_Keys(keys)), indent=1), mode=0o600)
