"""`mlops-assets replay`: policies tried on history before they go live. Operations do the work."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from mlops_assets.cli.shared import declared

if TYPE_CHECKING:
    from mlops_assets.operations.replay import PolicyResult

out = Console(highlight=False, soft_wrap=True, width=None if os.isatty(1) else 200)
_DAY = ["%Y-%m-%d"]


def add_replay_command(app: typer.Typer) -> None:
    """Add `replay` to the command line."""
    app.command()(replay)


def replay(
    model: Annotated[str, typer.Argument(help="name of a model")],
    begin: Annotated[
        datetime | None, typer.Option("--from", formats=_DAY, help="first day; the day it went live if left out")
    ] = None,
    end: Annotated[
        datetime | None,
        typer.Option("--to", formats=_DAY, help="day after the last; the end of its history if left out"),
    ] = None,
    label_delay: Annotated[str, typer.Option(help="how long after its event each label is known")] = "7d",
    edited: Annotated[
        Path | None,
        typer.Option(exists=True, help="a defs.yaml with the same model and another policy, to compare with"),
    ] = None,
    policy: Annotated[list[str] | None, typer.Option(help="only these, such as 'never' or 'as declared'")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the table here")] = None,
    picture: Annotated[Path | None, typer.Option(help="write the picture here; replay-<model>.png if left out")] = None,
    processes: Annotated[int, typer.Option(min=1, help="policies tried at the same time")] = 2,
) -> None:
    """Try policies on history: the same windows, verdicts and decisions as in service, without HTTP or daemon.

    Decisions that would wait for a person are carried out at once. Prints a table and draws a picture; nothing else is changed.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from mlops_assets.operations.replay import policies_of, replay_all
    from mlops_assets.operations.replay.figure import replay_figure

    spec = declared(model)
    other = None if edited is None else declared(model, edited.parent if edited.is_file() else edited)
    first = spec.live_from if begin is None else begin.replace(tzinfo=UTC)
    last = end.replace(tzinfo=UTC) if end is not None else spec.monitoring.until
    if last is None:
        raise typer.BadParameter(f"{model} has no end of its history: say --to")
    known = policies_of(spec, other)
    chosen = tuple(one for one in known if not policy or one.name in policy)
    if not chosen:
        raise typer.BadParameter(f"no such policy: choose from {', '.join(one.name for one in known)}")
    try:
        results = replay_all(
            chosen,
            first,
            last,
            _duration(label_delay),
            processes=processes,
            show=lambda one: out.print(f"  {one.policy}: {one.metric} {one.mean_loss:.4g}, {one.seconds:.0f} s"),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    _print(results)
    path = picture or Path(f"replay-{model}.png")
    replay_figure(results).savefig(path, dpi=110)
    out.print(f"\npicture: {path}")
    if json_file is not None:
        json_file.write_text(json.dumps([_flat(one) for one in results], indent=2) + "\n", encoding="utf-8")
        out.print(f"table: {json_file}")


def _duration(text: str) -> timedelta:
    from pydantic import TypeAdapter, ValidationError

    from mlops_assets.core.spec.values import Duration

    try:
        read: timedelta = TypeAdapter(Duration).validate_python(text)
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"]) from error
    return read


def _print(results: "tuple[PolicyResult, ...]") -> None:
    for one in results:
        if one.alerts_per_week is None:
            continue
        out.print(f"\n[bold]{one.policy}[/bold]")
        for step in one.steps:
            out.print(f"  {step.now:%Y-%m-%d}  {step.action}: {step.outcome}; {step.why[:150]}", markup=False)
    metric = results[0].metric
    columns = ("policy", "trainings", "released", "rollbacks", f"mean {metric}", "worst window", "alerts a week", "s")
    table = Table(*columns, box=None, pad_edge=False, title=None)
    for one in results:
        table.add_row(
            one.policy,
            str(one.trainings),
            str(one.promotions),
            str(one.rollbacks),
            f"{one.mean_loss:.4g}",
            f"{one.worst_loss:.4g} ({one.worst_window})",
            "-" if one.alerts_per_week is None else f"{one.alerts_per_week:.2f}",
            f"{one.seconds:.0f}",
        )
    out.print()
    out.print(table)


def _flat(result: "PolicyResult") -> dict[str, Any]:
    """A line of the table; the windows stay out of it."""
    everything = msgspec.to_builtins(result)
    return {name: value for name, value in everything.items() if name not in ("windows", "losses", "rows")}
