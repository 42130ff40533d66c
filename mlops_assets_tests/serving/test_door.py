"""Who is let in, who is not and why, and bodies that must arrive in time."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from mlops_assets.serving.door import Door, OpenToTheNetwork, listening_hosts, require_keys_or_loopback
from mlops_assets.serving.errors import Refusal
from mlops_assets.serving.settings import ServingSettings
from mlops_assets.stores.api_keys import ApiKeyStore, Permission
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest

NOW = datetime.now(UTC)
BODY = b'{"features":{"distance":1000}}'
PREDICT = "/v1/models/delay/predict"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    release(home, small_model())
    return home


@pytest.fixture
def store(home: Home) -> ApiKeyStore:
    return ApiKeyStore(home.root)


@pytest.fixture
def app(home: Home) -> Iterator[AppUnderTest]:
    with AppUnderTest(home, auth="keys") as app:
        yield app


def make(store: ApiKeyStore, *scopes: Permission, **options: Any) -> str:
    return store.create("test", scopes, "user:test", datetime.now(UTC), **options)[1]


def ask(app: AppUnderTest, path: str, key: str | None, content: bytes | None = None) -> Any:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    if content is not None:
        headers["content-type"] = "application/json"
    return app.request("GET" if content is None else "POST", path, content, **headers)


class TestKeys:
    @pytest.fixture
    def secret(self, app: AppUnderTest, store: ApiKeyStore) -> str:
        secret = make(store, "predict")
        app.wait_for(lambda: ask(app, PREDICT, secret, BODY).status_code == 200)
        return secret

    @pytest.mark.parametrize("header", ["authorization", "Authorization", "x-api-key"])
    def test_a_key_is_taken_from_either_header(self, app: AppUnderTest, secret: str, header: str):
        value = secret if header == "x-api-key" else f"bearer  {secret}"
        answer = app.request("POST", PREDICT, BODY, **{header: value, "content-type": "application/json"})
        assert answer.status_code == 200

    def test_another_kind_of_authorization_does_not_hide_the_key(self, app: AppUnderTest, secret: str):
        headers = {"authorization": "Basic dXNlcjpwYXNz", "x-api-key": secret, "content-type": "application/json"}
        assert app.request("POST", PREDICT, BODY, **headers).status_code == 200

    @pytest.mark.parametrize("path", [PREDICT, "/v1/models/delay/feedback", "/v1/models", "/metrics", "/", "/nowhere"])
    def test_nobody_is_let_in_without_a_key(self, app: AppUnderTest, path: str):
        answer = ask(app, path, None, BODY if path.startswith("/v1/models/") else None)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="mlops-assets"'
        assert answer.json()["error"]["code"] == "unauthorized"

    def test_a_wrong_key_is_told_apart_from_none(self, app: AppUnderTest, secret: str):
        answer = ask(app, PREDICT, secret[:-3] + "xyz", BODY)
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]

    def test_who_is_refused_leaves_nothing_in_the_log(self, app: AppUnderTest):
        ask(app, PREDICT, None, BODY)
        assert app.records() == []

    @pytest.mark.parametrize(
        ("path", "needed"),
        [
            ("/v1/models/delay/feedback", "feedback"),
            ("/metrics", "admin"),
            ("/schema.json", "admin"),
            ("/openapi.json", "admin"),
            ("/docs.json", "admin"),
            ("/", "admin"),
            ("/static_content/swagger-ui.css", "admin"),
        ],
    )
    def test_a_missing_scope_is_named(self, app: AppUnderTest, secret: str, path: str, needed: str):
        answer = ask(app, path, secret, BODY if needed == "feedback" else None)
        assert answer.status_code == 403
        assert f"scope {needed!r}" in answer.json()["error"]["message"]
        assert f'scope="{needed}"' in answer.headers["www-authenticate"]
        assert secret not in answer.text

    @pytest.mark.parametrize("path", ["/v1/models", "/v1/models/delay/schema"])
    def test_any_key_may_ask_what_there_is(self, app: AppUnderTest, secret: str, path: str):
        assert ask(app, path, secret).status_code == 200

    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
    def test_probes_need_no_key(self, app: AppUnderTest, path: str):
        assert ask(app, path, None).status_code == 200

    def test_the_platforms_own_key_opens_everything(self, app: AppUnderTest, store: ApiKeyStore):
        secret = store.internal()
        assert ask(app, PREDICT, secret, BODY).status_code == 200
        assert ask(app, "/metrics", secret).status_code == 200

    def test_a_revoked_key_is_refused_without_a_restart(self, app: AppUnderTest, store: ApiKeyStore, secret: str):
        store.revoke(secret.split("_")[1], "user:test", NOW)
        app.wait_for(lambda: ask(app, PREDICT, secret, BODY).status_code == 401)

    def test_a_key_that_expires_is_refused_also_after_it_was_let_in(
        self, app: AppUnderTest, store: ApiKeyStore, monkeypatch: pytest.MonkeyPatch
    ):
        until = datetime.now(UTC) + timedelta(days=1)
        secret = make(store, "predict", expires_at=until)
        app.wait_for(lambda: ask(app, PREDICT, secret, BODY).status_code == 200)

        monkeypatch.setattr("mlops_assets.serving.door.time.time", until.timestamp)

        assert ask(app, PREDICT, secret, BODY).status_code == 401

    def test_damaged_keys_leave_those_in_force_that_were(self, app: AppUnderTest, store: ApiKeyStore, secret: str):
        whole = store.path.read_bytes()
        store.path.write_bytes(b"{")
        other = ApiKeyStore(app.home.root)
        app.wait_for(lambda: ask(app, PREDICT, secret, BODY).status_code == 200)
        store.path.write_bytes(whole)
        later = make(other, "predict")
        app.wait_for(lambda: ask(app, PREDICT, later, BODY).status_code == 200)

    def test_keys_that_could_not_be_read_once_are_read_again(
        self, app: AppUnderTest, store: ApiKeyStore, secret: str, monkeypatch: pytest.MonkeyPatch
    ):
        failed, watched = Event(), app.app._door._store
        read = watched.all

        def fails_once() -> Any:
            if failed.is_set():
                return read()
            failed.set()
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(watched, "all", fails_once)
        store.revoke(secret.split("_")[1], "user:test", NOW)
        app.wait_for(lambda: ask(app, PREDICT, secret, BODY).status_code == 401 and failed.is_set())

    def test_what_is_remembered_of_keys_is_bounded(self, app: AppUnderTest, secret: str):
        """A caller may write the same header in many ways, each of which would be another entry."""
        known = app.app._door._known
        for number in range(3000):
            scope = {"headers": [(b"authorization", b"bearer " + b" " * number + secret.encode())]}
            app.app._door.admit(scope, "predict")
        assert len(known.verified) <= 1024


class TestAnOpenDoor:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "2001:db8::1"])
    def test_a_network_address_without_keys_is_refused_with_the_remedy(self, host: str):
        with pytest.raises(OpenToTheNetwork, match="MLOPS_AUTH=keys"):
            require_keys_or_loopback(host, "off")
        require_keys_or_loopback(host, "keys")

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1"])
    def test_loopback_is_always_served(self, host: str):
        require_keys_or_loopback(host, "off")

    def test_a_worker_sees_where_it_listens_however_it_was_started(self, home: Home):
        """`bentoml serve` gives a worker nothing but an open socket."""
        import socket

        with socket.socket() as listener:
            listener.bind(("0.0.0.0", 0))  # nobody is ever accepted on it
            listener.listen()
            assert "0.0.0.0" in listening_hosts()
            with pytest.raises(OpenToTheNetwork):
                asyncio.run(Door(ServingSettings(home)).start())


class TestBodies:
    def test_a_body_that_does_not_arrive_in_time_is_given_up(self, home: Home):
        async def ask_slowly() -> Refusal:
            door = Door(ServingSettings(home, body_seconds=0.05))
            await door.start()
            parts = [{"type": "http.request", "body": b"{", "more_body": True}]

            async def receive() -> Any:
                return parts.pop() if parts else await asyncio.Event().wait()

            with pytest.raises(Refusal) as refusal:
                await door.body({"headers": [(b"content-length", b"10")]}, receive)
            await door.stop()
            return refusal.value

        refusal = asyncio.run(ask_slowly())
        assert (refusal.status, refusal.code) == (408, "too_slow")
        assert (b"connection", b"close") in refusal.headers

    def test_a_caller_that_is_cancelled_otherwise_stays_cancelled(self, home: Home):
        async def give_up() -> None:
            door = Door(ServingSettings(home))
            waiting = asyncio.create_task(door.body({"headers": []}, asyncio.Event().wait))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

        asyncio.run(give_up())

    @pytest.mark.parametrize("length", [b"ten", b"-1", b"+5", b"1_0", b"", b"\xb2"])
    def test_a_length_that_is_no_number_is_refused(self, home: Home, length: bytes):
        refusal = self.refused(home, length)
        assert (refusal.status, refusal.code) == (400, "malformed_request")

    def test_an_endless_length_is_too_large(self, home: Home):
        assert self.refused(home, b"9" * 5000).status == 413

    @staticmethod
    def refused(home: Home, length: bytes) -> Refusal:
        async def receive() -> Any:
            raise AssertionError("it is refused before it is read")

        async def ask_once() -> None:
            await Door(ServingSettings(home)).body({"headers": [(b"content-length", length)]}, receive)

        with pytest.raises(Refusal) as refusal:
            asyncio.run(ask_once())
        return refusal.value
