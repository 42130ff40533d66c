"""`scorecard`: how well the deployment keeps its models alive, made again every hour. Its figures are those of the command line."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import dagster as dg

from mlops_assets.core.scorecard_values import Card, Figure, Scorecard
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.models import declared_models
from mlops_assets.operations.scorecard import lines_of, make_scorecard
from mlops_assets.resources import StoresResource

KEY = dg.AssetKey(["scorecard"])
_DIGITS = 6  # an availability of .9999 is another one than .9995
_HEADINGS = ("measure", "measured", "target", "met", "median", "worst", "rests on", "note")


def scorecard_definitions(models: Callable[[], Mapping[str, ModelSpec]] = declared_models) -> dg.Definitions:
    """The asset and the schedule that makes it again, on by default.

    Parameters
    ----------
    models
        Gives the declared models, each time that the asset is made.
    """

    @dg.asset(
        key=KEY,
        group_name="deployment",
        description="How well the models are kept alive: every figure beside its target, and how many events it rests on.",
        kinds={"markdown"},
    )
    def scorecard(stores: StoresResource) -> dg.MaterializeResult:
        made = make_scorecard(stores.open(), models(), datetime.now(UTC))
        return dg.MaterializeResult(metadata=_metadata(made))

    refresh = dg.define_asset_job("scorecard_refresh", [scorecard], description="Makes the scorecard again.")
    hourly = dg.ScheduleDefinition(
        name="scorecard_hourly",
        job=refresh,
        cron_schedule="7 * * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Makes the scorecard again, every hour.",
    )
    return dg.Definitions(assets=[scorecard], jobs=[refresh], schedules=[hourly])


def _metadata(made: Scorecard) -> dict[str, dg.MetadataValue]:
    cards = (made.overall, *made.models)
    tables = {"scorecard": dg.MetadataValue.md("\n\n".join(map(_table, cards)))}
    overall = {_slug(one.name): value for one in made.overall.figures for value in _number(one)}
    by_model = {
        f"{card.model}/{_slug(one.name)}": value
        for card in made.models
        for one in card.figures
        for value in _number(one)
    }
    met = [one.met for card in made.models for one in card.figures]
    targets = {
        "targets_met": dg.MetadataValue.int(met.count(True)),
        "targets_missed": dg.MetadataValue.int(met.count(False)),
    }
    return {**tables, **targets, **overall, **by_model}


def _number(one: Figure) -> Iterable[dg.MetadataValue]:
    """The value for the plot; nothing where nothing is known, so that the plot has a gap."""
    return () if one.value is None else (dg.MetadataValue.float(round(one.value, _DIGITS)),)


def _slug(name: str) -> str:
    return name.replace(",", "").replace("-", "_").replace(" ", "_")


def _table(card: Card) -> str:
    lines = [
        (one.measure, one.measured, one.target, one.met, one.median, one.worst, one.rests_on, one.note)
        for one in lines_of(card)
    ]
    rows = (_HEADINGS, ("---",) * len(_HEADINGS), *lines)
    return "\n".join((f"**{card.model}**", "", *map(_row, rows)))


def _row(cells: Iterable[str]) -> str:
    bar = "\\|"
    return f"| {' | '.join(cell.replace('|', bar) for cell in cells)} |"
