"""`mlops-assets drill`: break a running local system on purpose and see whether it heals. The drills are in `drills/`."""

import json
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console

from mlops_assets.stores.home import Home

if TYPE_CHECKING:
    from mlops_assets.drills.ground import Ground
    from mlops_assets.drills.report import DrillResult

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
ALL = "all"
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_drill_command(app: typer.Typer) -> None:
    """Add `drill` to the command line."""
    app.command()(drill)


def drill(
    names: Annotated[
        list[str] | None, typer.Argument(help="names of drills, or 'all'; lists them if left out", show_default=False)
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="work folder, with a system of its own; drills/ in the state's folder if left out"),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write the figures here, flat; those of other drills stay")
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="train the models anew, whatever is there")] = False,
    result_file: Annotated[Path | None, typer.Option("--result", hidden=True)] = None,
) -> None:
    """Break a running system on purpose, and see whether it heals: lost and wrong answers must be 0.

    The system is one of its own, below the work folder. Ends with code 1 when a drill does not heal, an acknowledged answer is lost
    or wrong, or more requests were touched than may be.
    """
    from mlops_assets.drills.catalogue import DRILLS
    from mlops_assets.drills.ground import Ground

    if not names:
        for one in DRILLS.values():
            out.print(f"{one.name:<18} {one.what}", markup=False)
        return
    chosen = tuple(DRILLS) if names == [ALL] else tuple(names)
    if unknown := [name for name in chosen if name not in DRILLS]:
        raise typer.BadParameter(f"no drill {', '.join(unknown)}: choose from {', '.join(DRILLS)} or {ALL}")
    ground = Ground((folder or Home.from_environment().root / "drills").absolute())
    for number in _ENDING:
        signal.signal(number, _interrupt)
    ground.train(lambda told: out.print(told, markup=False), anew=anew)
    if result_file is not None or len(chosen) == 1:
        results = [_play(chosen[0], ground)]
    else:
        results = [_play_apart(name, ground) for name in chosen]
    if result_file is not None:
        result_file.write_bytes(msgspec.json.encode(results[0]))
        return
    _show(results)
    if json_file is not None:
        _write(results, json_file, keep=names != [ALL])
    if not all(one.passed for one in results):
        raise typer.Exit(1)


def _play(name: str, ground: "Ground") -> "DrillResult":
    from mlops_assets.drills.catalogue import DRILLS
    from mlops_assets.drills.drill import run_drill

    out.print(f"\n[bold]{name}[/bold]: {DRILLS[name].what}")
    return run_drill(DRILLS[name], ground, lambda told: out.print(f"  {told}", markup=False))


def _play_apart(name: str, ground: "Ground") -> "DrillResult":
    """A drill in a process of its own: what libraries remember of the state before must not be remembered."""
    from mlops_assets.drills.report import DrillResult

    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "mlops_assets.cli", "drill", name, "--folder", str(ground.folder)]
        process = subprocess.Popen([*command, "--result", file.name])
        try:
            process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if process.returncode != 0:
            out.print(f"[red]{name} broke off[/red]")
            return DrillResult.broken_off(
                name, f"it broke off with code {process.returncode}: its output above says why"
            )
        return msgspec.json.decode(Path(file.name).read_bytes(), type=DrillResult)


def _show(results: "list[DrillResult]") -> None:
    from mlops_assets.drills.report import table_of

    out.print()
    out.print(table_of(results))
    for one in results:
        for line in (*([one.why] if one.why else []), *one.examples, *one.faults):
            out.print(f"{one.name}: {line}", style="red", markup=False)


def _write(results: "list[DrillResult]", file: Path, *, keep: bool) -> None:
    """Write the figures; with `keep`, those of other drills that are there already stay."""
    from mlops_assets.drills.report import flat

    before = json.loads(file.read_text(encoding="utf-8")) if keep and file.is_file() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    figures = {**before, **flat(results, datetime.now(UTC))}
    file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    out.print(f"figures: {file}")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Ends the drill, and lets nothing disturb the cleaning up after it."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
