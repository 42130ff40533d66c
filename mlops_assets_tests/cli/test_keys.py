"""A key is shown once when it is made, listed without its secret, and refused once it is revoked."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mlops_assets.cli.keys import add_key_commands
from mlops_assets.stores.api_keys import ApiKeyStore

app = typer.Typer()
add_key_commands(app)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ApiKeyStore:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")
    return ApiKeyStore(tmp_path)


def said(*words: str):
    return CliRunner().invoke(app, ["keys", *words])


def test_the_key_alone_is_on_standard_output_and_never_again(store: ApiKeyStore):
    made = said("create", "shop", "--scope", "predict", "--scope", "feedback", "--days", "30")

    secret = made.stdout.strip()
    (key,) = store.all()
    assert secret.startswith(f"mlops_{key.id}_")
    assert key.scopes == ("predict", "feedback")
    assert "not shown again" in made.stderr
    listed = said("list").stdout
    assert "in force until" in listed
    assert secret not in listed


def test_a_key_may_predict_unless_more_is_asked_for(store: ApiKeyStore):
    said("create", "shop")
    assert store.all()[0].scopes == ("predict",)


def test_a_revoked_key_stays_in_the_list(store: ApiKeyStore):
    said("create", "shop")
    assert "revoked" in said("revoke", store.all()[0].id).stdout
    assert "revoked" in said("list").stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("create", "shop", "--scope", "root"), "choose from predict, explain, feedback, admin"),
        (("create", "shop", "--days", "-1"), "choose a later time"),
        (("create", "shop", "--days", "1e9"), "does not expire"),
        (("revoke", "0123456789ab"), "there is no key"),
    ],
)
def test_what_cannot_be_done_says_what_can(store: ApiKeyStore, words: tuple[str, ...], why: str):
    result = said(*words)
    assert result.exit_code == 1
    assert why in result.stderr
    assert store.all() == ()
