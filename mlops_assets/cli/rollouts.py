"""What an operator types to see trials of new versions: their stages, looks and ends. Operations and stores do the work."""

import sys
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlops_assets.cli.shared import declared, stop
from mlops_assets.stores.home import Home

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)


def add_rollouts_command(app: typer.Typer) -> None:
    """Add `rollouts` to the command line."""
    app.command()(rollouts)


def rollouts(
    model: Annotated[str, typer.Argument(help="name of a model")],
    everything: Annotated[bool, typer.Option("--all", help="also the trials before the last one")] = False,
) -> None:
    """How new versions are tried beside the champion: each look at the evidence, judged once more, and what was done.

    Ends with code 1 when a look that is written down does not come to the same again.
    """
    from mlops_assets.core.trials.facts import TrialBegan, TrialLooked, TrialStepped
    from mlops_assets.operations.rollouts.advance import looks_again
    from mlops_assets.stores.database import LedgerUnavailable
    from mlops_assets.stores.ledger import Ledger
    from mlops_assets.stores.ledger_chain import LedgerDamaged

    try:
        ledger = Ledger(Home.from_environment().ledger)
        record = ledger.of(model)
        lines = ledger.entries(model, kinds=("trial begun", "trial looked", "trial stepped"))
    except (LedgerUnavailable, LedgerDamaged) as error:
        stop(error)
    if not record.trials:
        declared(model)
        out.print(f"{model}: no version was ever on trial", markup=False)
        return
    wrong: list[str] = []
    for one in record.trials if everything else record.trials[-1:]:
        began = one.began
        state = "under way" if one.is_open else f"over ({one.stepped.step if one.stepped else ''})"
        title = f"{one.id}: version {began.version} beside version {began.champion}, {began.protocol.strategy}, {state}"
        out.print(title, markup=False)
        table = Table(
            "at", "as of", "stage", "share", "tests (samples: verdict)", "what follows", box=None, pad_edge=False
        )
        looks: list[TrialLooked] = []
        for entry in (line.entry for line in lines if line.entry.subject == one.id):
            when = _time(entry.at), _time(entry.now)
            match entry.fact:
                case TrialLooked() as fact:
                    looks.append(fact)
                    tests = ", ".join(f"{name} {at.samples}: {at.verdict}" for name, at in fact.looks.items())
                    follows = fact.step if fact.step == "keep looking" else f"{fact.step}: {fact.reason}"
                    table.add_row(*map(escape, (*when, fact.stage, f"{fact.share:g}", tests, follows)))
                case TrialStepped() as fact:
                    done = f"done: {fact.step}, release {fact.release}: {fact.reason}"
                    table.add_row(*map(escape, (*when, "", "", "", done)))
                case TrialBegan() | _:
                    pass
        out.print(table)
        wrong += looks_again(began, looks)
    for line in wrong:
        out.print(f"[red]{escape(line)}[/red]")
    if wrong:
        raise typer.Exit(1)


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"
