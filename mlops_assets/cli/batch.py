"""What an operator types to have a table scored: `mlops-assets batch`. Operations do the work."""

from typing import Annotated

import typer
from rich.console import Console

from mlops_assets.cli.shared import declared, stop
from mlops_assets.stores.home import Home

out = Console(highlight=False, soft_wrap=True)


def add_batch_command(app: typer.Typer) -> None:
    """Add `batch` to the command line."""
    app.command()(batch)


def batch(
    model: Annotated[str, typer.Argument(help="name of a model")],
    source: Annotated[str, typer.Argument(metavar="INPUT", help="table to score: path or URL of Parquet or CSV")],
    output: Annotated[str, typer.Argument(help="where the answers go: path or URL that ends in .parquet or .csv")],
    version: Annotated[int | None, typer.Option(help="a registered version; left out: whatever is in service")] = None,
) -> None:
    """Score a table with the model in service. Rows that cannot be scored go to a second table, with their reasons."""
    from mlops_assets.operations.batch import BatchRefused, score_table
    from mlops_assets.operations.stores import Stores
    from mlops_assets.sources.errors import SourceError

    spec = declared(model)
    try:
        done = score_table(spec, Stores(Home.from_environment()), source, output, version=version)
    except (BatchRefused, SourceError, OSError) as error:
        stop(error)
    who = f"{model} v{done.version}" + ("" if done.release is None else f", release {done.release} ({done.role})")
    out.print(f"{done.scored} of {done.rows} rows scored by {who} in {done.seconds:.1f} s: {output}", markup=False)
    if done.masked:
        out.print(f"taken for missing, as the release says: {', '.join(done.masked)}", markup=False)
    if done.quarantined:
        out.print(f"{done.quarantined} rows have no answer: {done.quarantine}", markup=False)
        for reason, rows in done.reasons:
            out.print(f"  {rows}  {reason}", markup=False)
