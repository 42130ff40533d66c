"""What an operator types to let somebody ask the service, or no longer: `mlops-assets keys create|list|revoke`."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from mlops_assets.cli.shared import stop, user
from mlops_assets.stores.api_keys import PERMISSIONS, ApiKey, ApiKeysDamaged, ApiKeyStore, Permission, UnknownKey
from mlops_assets.stores.home import Home

out = Console(highlight=False, soft_wrap=True)
keys = typer.Typer(no_args_is_help=True, help="API keys of the service: who may ask, give labels, look inside.")


def add_key_commands(app: typer.Typer) -> None:
    """Add `keys create`, `keys list` and `keys revoke` to the command line."""
    app.add_typer(keys, name="keys")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="whom or what the key is for")],
    scope: Annotated[
        list[str] | None, typer.Option(help=f"one of {', '.join(PERMISSIONS)}; may be repeated; left out: predict")
    ] = None,
    days: Annotated[float | None, typer.Option(help="it expires after so many days; left out: never")] = None,
) -> None:
    """Make a key and show it, this once: only its hash is kept. Running services know it within a second."""
    scopes = tuple(dict.fromkeys(scope or ["predict"]))
    if unknown := [one for one in scopes if one not in PERMISSIONS]:
        stop(f"there is no scope {unknown[0]!r}: choose from {', '.join(PERMISSIONS)}")
    now = datetime.now(UTC)
    try:
        expires_at = None if days is None else now + timedelta(days=days)
        key, secret = _store().create(name, cast(tuple[Permission, ...], scopes), user(), now, expires_at)
    except OverflowError:
        stop(f"--days {days:g} is too long: leave it out for a key that does not expire")
    except (ValueError, ApiKeysDamaged) as error:
        stop(error)
    out.print(secret, markup=False)
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"key {key.id} for {name!r} may {', '.join(scopes)}; it is not shown again. Send it as 'Authorization: Bearer <key>'",
        markup=False,
    )


@keys.command("list")
def list_keys() -> None:
    """Every key ever made, with its scopes and what became of it."""
    table = Table("id", "name", "scopes", "created", "by", "state", box=None, pad_edge=False)
    now = datetime.now(UTC)
    try:
        for key in _store().all():
            table.add_row(
                key.id, key.name, ", ".join(key.scopes), _time(key.created_at), key.created_by, _state(key, now)
            )
    except ApiKeysDamaged as error:
        stop(error)
    out.print(table, markup=False)


@keys.command()
def revoke(key_id: Annotated[str, typer.Argument(help="id of the key, as `keys list` shows it")]) -> None:
    """Take a key back, for good. Running services refuse it within a second."""
    try:
        key = _store().revoke(key_id, user(), datetime.now(UTC))
    except (UnknownKey, ApiKeysDamaged) as error:
        stop(error)
    out.print(f"key {key.id} for {key.name!r} is {_state(key, datetime.now(UTC))}", markup=False)


def _store() -> ApiKeyStore:
    return ApiKeyStore(Home.from_environment().root)


def _state(key: ApiKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return f"revoked {_time(key.revoked_at)} by {key.revoked_by}"
    if key.expires_at is None:
        return "in force"
    return f"{'expired' if key.expires_at <= now else 'in force until'} {_time(key.expires_at)}"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
