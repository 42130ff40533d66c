"""What the commands share: how one ends that cannot do what is wanted, who types it, and the declared models."""

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

if TYPE_CHECKING:
    from mlops_assets.core.spec import ModelSpec


def not_blank(text: str) -> str:
    """What an option says that must say something."""
    if not text.strip():
        raise typer.BadParameter("say why: the ledger keeps it for those who come after you")
    return text


Reason = Annotated[str, typer.Option(help="why; it is kept", callback=not_blank)]


def stop(why: object) -> NoReturn:
    """End the command with code 1, and say why on standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(str(why), style="red", markup=False)
    raise typer.Exit(1)


def user() -> str:
    """Who types, as the ledger and the plans name them."""
    try:
        return f"user:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return f"user:{os.getuid()}"


def declared(model: str, folder: Path | None = None) -> "ModelSpec":
    """The declaration of a model, whatever is wrong with those of others. Ends the command where there is none, or it is wrong.

    Parameters
    ----------
    folder
        Where it is declared; None for the project's own `defs`.
    """
    from mlops_assets.operations.models import DEFS, NotDeclared, declared_model

    try:
        return declared_model(model, folder or DEFS)
    except (NotDeclared, ValueError) as error:
        stop(error)
