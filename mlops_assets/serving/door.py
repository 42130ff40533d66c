"""Who may come in, and how long a request may take to arrive: API keys, the body's limits, and no open door to a network.

What a body must contain is judged in `contract.py`; how keys are made and kept, in `stores/api_keys.py`.
"""

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hmac import compare_digest
from typing import Any

import psutil

from mlops_assets.serving.errors import Refusal
from mlops_assets.serving.settings import AUTH_VARIABLE, ServingSettings
from mlops_assets.stores.api_keys import ApiKey, ApiKeysDamaged, ApiKeyStore, KeyRing, Permission, Stamp

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

KEY_ID = "mlops.key"
BODY = "mlops.body"
_HEADERS = "mlops.headers"

logger = logging.getLogger("bentoml.mlops_assets.door")

_MAX_VERIFIED = 1024
_SWEEP_SECONDS = 0.5
_CLOSE = (b"connection", b"close")


class CallerLeft(Exception):
    """The connection closed before the request was whole."""


class OpenToTheNetwork(RuntimeError):
    """The service would listen where others reach it, and ask nobody for a key."""


@dataclass(frozen=True)
class _Known:
    """The keys in force, and by their hashes the headers that have shown one: the whole header, its key, and when that expires."""

    ring: KeyRing = field(default_factory=KeyRing)
    verified: dict[int, tuple[bytes, ApiKey, float]] = field(default_factory=dict)


class Door:
    """Lets requests in. One per worker; its methods but `start` and `stop` are called on the event loop."""

    def __init__(self, settings: ServingSettings):
        self._settings = settings
        self._asks = settings.auth == "keys"
        self._store = ApiKeyStore(settings.home.root)
        self._stamp: Stamp | None = None
        self._known = _Known()
        self._arriving: dict[asyncio.Task[Any], float] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Read the keys and begin to watch them.

        Raises
        ------
        OpenToTheNetwork
            When this process listens on an address that is not loopback, and keys are off.
        ApiKeysDamaged
            When the keys cannot be read.
        """
        self._loop = asyncio.get_running_loop()
        if self._asks:
            await asyncio.to_thread(self._store.ensure_internal, datetime.now(UTC))
            await asyncio.to_thread(self._load)
            self._tasks.append(asyncio.create_task(self._watch_keys()))
        else:
            for host in await asyncio.to_thread(listening_hosts):
                require_keys_or_loopback(host, self._settings.auth)
        self._tasks.append(asyncio.create_task(self._hurry()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()

    def admit(self, scope: Scope, permission: Permission | None) -> None:
        """Let a request in that shows a key with this permission, or any key where it is None; all of them where keys are off.

        Raises
        ------
        Refusal
            401 without a key that opens, 403 naming the permission that the key has not.
        """
        if not self._asks:
            return
        known = self._known
        key = _remembered(known, headers_of(scope)) or _verify(known, scope)
        if permission is not None and permission not in key.scopes:
            raise _forbidden(key, permission)
        scope[KEY_ID] = key.id

    def knows(self, headers: dict[bytes, bytes], permission: Permission) -> bool:
        """Whether to let a request in needs no more than a look: its key has been seen, and has this permission."""
        if not self._asks:
            return True
        key = _remembered(self._known, headers)
        return key is not None and permission in key.scopes

    async def body(self, scope: Scope, receive: Receive, types: tuple[bytes, ...] = (b"application/json",)) -> bytes:
        """The whole body of a request, or what it was turned into where `scope[BODY]` holds that.

        Parameters
        ----------
        types
            The media types that are understood; a request that names none is taken to be of them.

        Raises
        ------
        Refusal
            413 as soon as it is known to be too large, 408 when it does not arrive in time, 415 for another media type or an
            encoded body, 400 for a length that is no number.
        CallerLeft
        """
        if BODY in scope:
            turned_into: bytes = scope[BODY]
            return turned_into
        limit, headers = self._settings.max_body_bytes, headers_of(scope)
        length, kind = headers.get(b"content-length"), headers.get(b"content-type")
        if length is not None:
            if not length.isdigit():
                raise Refusal(400, "malformed_request", "Content-Length is not a number", headers=(_CLOSE,))
            if len(length) > 18 or int(length) > limit:
                raise _too_large(limit)
        if kind is not None and kind not in types and kind.partition(b";")[0].strip().lower() not in types:
            raise Refusal(415, "not_json", "send the body as JSON, with 'Content-Type: application/json'")
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refusal(415, "encoded_body", "send the body as it is, without a content encoding")
        task = asyncio.current_task(self._loop)  # to ask for the running loop is a system call
        assert task is not None
        # A timer per request costs more than all else that is done here, so that one sweep looks after all that wait.
        self._arriving[task] = time.monotonic() + self._settings.body_seconds
        try:
            return await _whole(receive, limit)
        except asyncio.CancelledError:
            if task in self._arriving:
                raise
            task.uncancel()
            message = f"the body did not arrive within {self._settings.body_seconds:g} s"
            raise Refusal(408, "too_slow", message, headers=(_CLOSE,)) from None
        finally:
            self._arriving.pop(task, None)

    async def _hurry(self) -> None:
        """Give up on bodies that take too long."""
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, self._settings.body_seconds / 4))
            now = time.monotonic()
            for task in [task for task, deadline in self._arriving.items() if deadline < now]:
                del self._arriving[task]
                task.cancel()

    async def _watch_keys(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_seconds)
            try:
                await asyncio.to_thread(self._load)
            except (ApiKeysDamaged, OSError) as error:
                logger.error("The API keys stay as they were: %s", error)

    def _load(self) -> None:
        """Read the keys again if their file has changed, and forget what was verified by the former ones."""
        stamp = self._store.stamp()
        if stamp == self._stamp:
            return
        self._known = _Known(KeyRing(self._store.all()))
        # Only now: what could not be read is read again at the next look.
        self._stamp = stamp


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers of a request by name; of one that is sent twice, the last. Made once."""
    headers: dict[bytes, bytes] | None = scope.get(_HEADERS)
    if headers is None:
        headers = scope[_HEADERS] = dict(scope["headers"])
    return headers


def require_keys_or_loopback(host: str, auth: str) -> None:
    """Raise `OpenToTheNetwork` for an address that others can reach while keys are off."""
    if auth != "keys" and not ipaddress.ip_address(host).is_loopback:
        raise OpenToTheNetwork(
            f"the service is to listen on {host}, where others reach it, and asks nobody for a key: set {AUTH_VARIABLE}=keys "
            "and make keys with `mlops-assets keys create`, or listen on 127.0.0.1"
        )


def listening_hosts() -> set[str]:
    """The addresses that this process has inherited or opened listening sockets on."""
    connections = psutil.Process().net_connections("tcp")
    return {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}


def _remembered(known: _Known, headers: dict[bytes, bytes]) -> ApiKey | None:
    """The key that a request shows, where a request has shown it in the same words before."""
    value = headers.get(b"authorization") or headers.get(b"x-api-key") or b""
    found = known.verified.get(hash(value))
    if found is not None and compare_digest(found[0], value) and time.time() < found[2]:
        return found[1]
    return None


def _verify(known: _Known, scope: Scope) -> ApiKey:
    """The key that a request shows, looked at in full; it is remembered. Raises `Refusal` 401."""
    shown = False
    for name, value in scope["headers"]:
        presented = _presented(name, value)
        if presented is None:
            continue
        shown = True
        key = known.ring.verify(presented, time.time())
        if key is not None:
            if len(known.verified) >= _MAX_VERIFIED:  # there are many ways to write "bearer"
                known.verified.clear()
            known.verified[hash(value)] = (value, key, key.expires)
            return key
    if shown:
        message, challenge = "the API key is unknown, revoked or expired", b', error="invalid_token"'
    else:
        message, challenge = "send an API key, as 'Authorization: Bearer <key>' or as 'x-api-key: <key>'", b""
    raise Refusal(401, "unauthorized", message, headers=((b"www-authenticate", _REALM + challenge), _CLOSE))


_REALM = b'Bearer realm="mlops-assets"'


def _presented(name: bytes, value: bytes) -> bytes | None:
    if name == b"x-api-key":
        return value.strip()
    if name == b"authorization" and value[:7].lower() == b"bearer ":
        return value[7:].strip()
    return None


def _forbidden(key: ApiKey, permission: Permission) -> Refusal:
    message = f"the key {key.id} has not the scope {permission!r}: make one with it, or ask another path"
    challenge = b'%s, error="insufficient_scope", scope="%s"' % (_REALM, permission.encode())
    return Refusal(403, "forbidden", message, headers=((b"www-authenticate", challenge), _CLOSE))


async def _whole(receive: Receive, limit: int) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message["body"]
        if len(body) > limit:
            raise _too_large(limit)
        return body
    parts, size = [], 0
    while message["type"] == "http.request":
        parts.append(message["body"])
        size += len(message["body"])
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
    raise CallerLeft


def _too_large(limit: int) -> Refusal:
    message = f"the body is larger than {limit} bytes: send the rows in several requests"
    return Refusal(413, "too_large", message, headers=(_CLOSE,))
