"""What an operator types about incidents, decisions and the record of them. Operations and stores do the work."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlops_assets.cli.shared import not_blank, stop, user
from mlops_assets.stores.home import Home

if TYPE_CHECKING:
    from mlops_assets.core.ledger import Decision, Incident
    from mlops_assets.stores.ledger import Ledger

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)

_QUIET = ("none", "observe")
_Model = Annotated[str | None, typer.Argument(help="name of a model; all models if left out")]


def add_ledger_commands(app: typer.Typer) -> None:
    """Add `incidents`, `decisions`, `acknowledge`, `notifications` and `audit` to the command line."""
    for command in (incidents, decisions, acknowledge, notifications):
        app.command()(command)
    audit = typer.Typer(no_args_is_help=True, help="The chained record of everything that was found, decided and done.")
    audit.command("verify")(audit_verify)
    audit.command("show")(audit_show)
    app.add_typer(audit, name="audit")


def incidents(
    model: _Model = None,
    everything: Annotated[bool, typer.Option("--all", help="also those that are resolved")] = False,
) -> None:
    """What is wrong now, and since when: the open incidents."""
    found: list[Incident] = []
    with _told():
        ledger = _open()
        for name in _chosen(ledger, model):
            record = ledger.of(name)
            found += record.incidents if everything else record.open_incidents
    if not found:
        out.print("no incident" if everything else "no open incident")
        return
    headings = ("incident", "model", "severity", "cause", "detected", "found", "state", "title")
    table = Table(*headings, box=None, pad_edge=False)
    for one in sorted(found, key=lambda one: one.detected_at, reverse=True):
        detected, found_times = _time(one.detected_at), f"{one.times_found}×"
        _add(table, one.id, one.model, one.severity, one.cause, detected, found_times, _state(one), one.title)
    out.print(table)


def decisions(
    model: _Model = None,
    everything: Annotated[bool, typer.Option("--all", help="also those that nothing is to be done")] = False,
) -> None:
    """What was decided and what became of it, newest first."""
    found: list[Decision] = []
    with _told():
        ledger = _open()
        for name in _chosen(ledger, model):
            found += [one for one in ledger.of(name).decisions if everything or one.what.action not in _QUIET]
    if not found:
        out.print("no decision")
        return
    headings = ("decision", "model", "action", "mode", "decided", "as of", "by", "outcome", "attempts", "reason")
    table = Table(*headings, box=None, pad_edge=False)
    for one in sorted(found, key=lambda one: one.at, reverse=True):
        what, became = one.what, (_outcome(one), str(one.attempts))
        _add(
            table,
            one.id,
            one.model,
            what.action,
            what.mode,
            _time(one.at),
            _time(one.now),
            one.actor,
            *became,
            what.reason,
        )
    out.print(table)


def acknowledge(
    incident: Annotated[str, typer.Argument(help="id of an incident, or enough of its beginning")],
    reason: Annotated[str, typer.Option(help="what you know of it; it is kept", callback=not_blank)],
) -> None:
    """Say that you have seen an incident."""
    from mlops_assets.core.ledger import Acknowledged, Entry

    with _told():
        ledger = _open()
        known = [one for name in ledger.models() for one in ledger.of(name).incidents]
        found = [one for one in known if one.id == incident] or [one for one in known if one.id.startswith(incident)]
        if len(found) != 1:
            many = "several incidents begin" if found else "no incident begins"
            stop(f"{many} with {incident!r}: see `mlops-assets incidents --all`")
        one = found[0]
        if not one.is_open:
            stop(f"{one.id} was resolved at {_time(one.resolved_at)}: {one.resolution}")
        ledger.record(Entry(one.model, one.id, Acknowledged(reason), user(), datetime.now(UTC)))
    out.print(f"{one.id} of {one.model} is acknowledged", markup=False)


def notifications(
    model: _Model = None,
    everything: Annotated[bool, typer.Option("--all", help="also those that have arrived")] = False,
) -> None:
    """What people were to be told and have not been: notices that wait, were given up, or have no receiver."""
    from mlops_assets.stores.outbox import Outbox

    with _told():
        outbox = Outbox(_open().database)
        posted = (
            outbox.all(model=model) if everything else outbox.all("waiting", "given up", "no receiver", model=model)
        )
    if not posted:
        out.print("no notification" if everything else "every notification has arrived")
        return
    table = Table("at", "state", "severity", "title", "receivers", box=None, pad_edge=False)
    for one in reversed(posted):
        fares = ", ".join(
            f"{at.receiver}: {at.state} after {at.attempts} attempt{'s' * (at.attempts != 1)}{at.error and f' ({at.error})'}"
            for at in one.deliveries
        )
        _add(table, _time(one.put_at), one.state, one.notice.severity, one.notice.title, fares)
    out.print(table)


def audit_verify(
    head: Annotated[
        str,
        typer.Option(
            help="a head that was printed earlier and kept elsewhere (<number>:<hash>): is it still in the chain?"
        ),
    ] = "",
) -> None:
    """Was any line changed, removed, inserted or moved? Ends with code 1, and names the first bad line."""
    from mlops_assets.stores.ledger import Head

    number, _, digest = head.partition(":")
    if head and not (number.isdigit() and digest):
        stop(f"{head!r} is no head: give it as it was printed, <number>:<hash>")
    with _told():
        found = _open().verify(Head(int(number), digest) if head else None)
    if found.problem is not None:
        where = "" if found.seq is None else f" (first bad line: {found.seq})"
        stop(f"the ledger is damaged{where}: {found.problem}")
    out.print(f"intact: {found.lines} lines; head {found.lines}:{found.hash}", markup=False)


def audit_show(
    model: _Model = None, as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False
) -> None:
    """Every line of the ledger, oldest first."""
    with _told():
        lines = _open().entries(model)
    if as_json:
        for line in lines:
            typer.echo(msgspec.json.encode(line, order="deterministic"))
        return
    table = Table("line", "at", "as of", "model", "what", "about", "by", "content", box=None, pad_edge=False)
    for line in lines:
        one = line.entry
        kind = str(one.fact.__struct_config__.tag)
        said = {
            name: value for name, value in msgspec.structs.asdict(one.fact).items() if value not in (None, "", (), {})
        }
        content = msgspec.json.encode(said, order="deterministic").decode()
        places = str(line.seq), _time(one.at), _time(one.now), one.model
        _add(table, *places, kind, one.subject, one.actor, content)
    out.print(table)


@contextmanager
def _told() -> Iterator[None]:
    """Errors of the ledger as a message and code 1."""
    from mlops_assets.stores.database import LedgerUnavailable
    from mlops_assets.stores.ledger_chain import LedgerDamaged

    try:
        yield
    except (LedgerUnavailable, LedgerDamaged) as error:
        stop(error)


def _open() -> "Ledger":
    from mlops_assets.stores.ledger import Ledger

    return Ledger(Home.from_environment().ledger)


def _chosen(ledger: "Ledger", model: str | None) -> tuple[str, ...]:
    known = ledger.models()
    if model is None:
        return known
    if model not in known:
        stop(f"nothing is written about {model!r}: the ledger knows {', '.join(known) or 'no model yet'}")
    return (model,)


def _state(one: "Incident") -> str:
    if one.resolved_at is not None:
        return f"resolved {_time(one.resolved_at)}: {one.resolution}"
    if one.mitigated_at is not None:
        return f"mitigated {_time(one.mitigated_at)}: {one.mitigated_by or ''}"
    return f"acknowledged by {one.acknowledged_by or ''}" if one.acknowledged_at is not None else "open"


def _outcome(one: "Decision") -> str:
    if one.rejected_by is not None:
        return f"rejected by {one.rejected_by}"
    if one.running:
        return "under way"
    if one.waits_for_approval:
        return "waits for approval"
    if one.outcome is not None or not one.what.asks_for_work:
        return one.outcome or "-"
    return "off" if one.what.mode == "off" else "waits"


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _add(table: Table, *cells: str) -> None:
    table.add_row(*(escape(cell) or "-" for cell in cells))
