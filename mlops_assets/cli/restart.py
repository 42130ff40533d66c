"""What an operator types to bring new code into service: `mlops-assets restart`. Operations do the work."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from mlops_assets.cli.shared import stop
from mlops_assets.stores.home import Home

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)


def add_restart_command(app: typer.Typer) -> None:
    """Add `restart` to the command line."""
    app.command()(restart)


def restart(
    ready_seconds: Annotated[
        float, typer.Option(min=1, help="a new worker that is not ready by then is given up")
    ] = 60,
    drain_seconds: Annotated[
        float, typer.Option(min=1, help="so long idle connections stay open, to be told with their next answer")
    ] = 10,
    server: Annotated[str, typer.Option(help="which one, where several run on this home")] = "",
) -> None:
    """Replace the workers of the running service one by one, for new code, without a dropped request.

    Ends with code 1 when a new worker does not become ready: the old one goes on serving.
    """
    from mlops_assets.operations.restart import RestartFailed, restart_workers
    from mlops_assets.stores.servers import Replacement, RestartUnderWay

    def tell(one: Replacement) -> None:
        left = f"had to be killed after {one.drained_s:.1f} s" if one.killed else f"left in {one.drained_s:.1f} s"
        out.print(f"worker {one.old} -> {one.new}: ready in {one.ready_s:.1f} s, the old one {left}")

    try:
        report = restart_workers(
            Home.from_environment(),
            server=server or None,
            ready_seconds=ready_seconds,
            drain_seconds=drain_seconds,
            tell=tell,
        )
    except (RestartFailed, RestartUnderWay) as error:
        stop(error)
    for pid in report.died:
        out.print(f"worker {pid} ended by itself meanwhile; the server started another")
    assert report.ended_at is not None
    seconds = (report.ended_at - report.began_at).total_seconds()
    out.print(f"{len(report.replaced)} of {report.workers} workers replaced in {seconds:.1f} s")
