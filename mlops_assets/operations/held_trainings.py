"""Which trainings wait for the end of a trial, and which end it: one version is tried at a time.

What a trial holds back altogether is decided in `core/response/trainings.py`; this is about what had been decided before it began.
"""

from mlops_assets.core.ledger import Decision, Record
from mlops_assets.core.response import held_by_trial
from mlops_assets.core.response.remedies import rests
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.attempts import runs_of
from mlops_assets.operations.respond import version_on_trial
from mlops_assets.operations.stores import Stores


def waits_for_trial(spec: ModelSpec, stores: Stores, decision: Decision) -> str | None:
    """Why a training has to wait until a trial is over, with leave or without; None where it may begin.

    That of its own candidate, which an attempt before has put on trial, holds it not up, nor what a person has asked for.
    """
    if decision.what.action != "retrain" or not decision.is_by_automation:
        return None
    record = stores.ledger.of(spec.name)
    why = held_by_trial(spec, record, version_on_trial(spec, stores))
    if why is None or _begun_by(spec, stores, record) in runs_of(stores, spec.name, "", decision.id):
        return None
    return f"{why}, and its trial comes first: see `mlops-assets rollouts {spec.name}`"


def resting(spec: ModelSpec, stores: Stores, record: Record) -> tuple[Decision, ...]:
    """The trainings that have not begun and wait until a trial is over: what a person asks for goes before them."""
    on_trial = version_on_trial(spec, stores)
    return tuple(one for one in record.open_decisions if rests(spec, record, on_trial, one))


def ends_trial(spec: ModelSpec, stores: Stores) -> str | None:
    """What becomes of the version on trial when a person asks for a training now; None where none is."""
    why = held_by_trial(spec, stores.ledger.of(spec.name), version_on_trial(spec, stores))
    return (
        why
        and f"{why}, until the new candidate has passed its gates and takes its place: then that trial is superseded"
    )


def _begun_by(spec: ModelSpec, stores: Stores, record: Record) -> str | None:
    """Who has put the version on trial that is."""
    known, plan = record.open_trial, stores.releases.current(spec.name)
    if plan is None or plan.challenger is None:
        return None if known is None else known.began.decided_by
    version = plan.challenger.version
    history = stores.releases.history(spec.name)
    return next(one.decided_by for one in history if one.challenger is not None and one.challenger.version == version)
