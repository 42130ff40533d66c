"""What an operator types to see how well the platform does: `mlops-assets scorecard`. Operations do the work."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlops_assets.cli.shared import stop
from mlops_assets.stores.home import Home

if TYPE_CHECKING:
    from mlops_assets.core.scorecard_values import Scorecard

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 240)
_DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
_STYLES = {"yes": "green", "no": "red"}


def add_scorecard_command(app: typer.Typer) -> None:
    """Add `scorecard` to the command line."""
    app.command()(scorecard)


def scorecard(
    model: Annotated[str | None, typer.Option(help="name of a model; all models if left out")] = None,
    since: Annotated[datetime | None, typer.Option(formats=_DATES, help="event time (UTC) to begin with")] = None,
    until: Annotated[datetime | None, typer.Option(formats=_DATES, help="event time (UTC) to end before")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write every figure into this file as well")] = None,
) -> None:
    """How well the models are kept alive: each figure beside its target, and how many events it rests on."""
    from mlops_assets.operations.models import declared_models
    from mlops_assets.operations.scorecard import make_scorecard
    from mlops_assets.operations.stores import Stores
    from mlops_assets.stores.database import LedgerUnavailable
    from mlops_assets.stores.ledger_chain import LedgerDamaged

    if since is not None and until is not None and since >= until:
        stop(f"the period ends ({until:%Y-%m-%d %H:%M}) before it begins ({since:%Y-%m-%d %H:%M})")
    try:
        models = declared_models()
    except ValueError as error:  # a figure without one of the models would be another figure
        stop(error)
    try:
        made = make_scorecard(
            Stores(Home.from_environment()),
            models,
            datetime.now(UTC),
            models=None if model is None else (model,),
            since=_utc(since),
            until=_utc(until),
        )
    except KeyError as error:
        stop(error.args[0])
    except (LedgerUnavailable, LedgerDamaged) as error:
        stop(error)
    print_scorecard(out, made)
    if json_file is not None:
        try:
            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(made)) + b"\n")
        except OSError as error:
            stop(f"cannot write {json_file}: {error.strerror}")


def print_scorecard(out: Console, made: "Scorecard", *, by_model: bool = True) -> None:
    """One table of everything and, where wanted, of each model."""
    from mlops_assets.operations.scorecard import lines_of

    headings = ("model", "measure", "measured", "target", "met", "median", "worst", "rests on", "note")
    table = Table(*headings, box=None, pad_edge=False)
    cards = made.models if len(made.models) == 1 else (made.overall, *made.models)[: None if by_model else 1]
    for card in cards:
        for line in lines_of(card):
            cells = (line.model, line.measure, line.measured, line.target, line.met, line.median, line.worst)
            style = _STYLES.get(line.met)
            table.add_row(*(escape(cell) or "-" for cell in (*cells, line.rests_on)), escape(line.note), style=style)
        table.add_section()
    out.print(table)
    if undated := cards[0].undated:
        out.print(f"{undated} incidents, decisions or releases without an event time are in no period and left out")


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
