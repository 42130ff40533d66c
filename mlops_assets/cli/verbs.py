"""What an operator types to have something done to a model, or to allow and forbid it. Operations do the work."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

import mlops_assets
from mlops_assets.cli.shared import Reason, declared, stop, user
from mlops_assets.stores.home import Home

if TYPE_CHECKING:
    from mlops_assets.core.spec import ModelSpec
    from mlops_assets.core.training_request import TrainingRequest
    from mlops_assets.operations.by_hand import ByHand
    from mlops_assets.operations.stores import Stores

PROJECT = Path(mlops_assets.__file__).parent.parent
out = Console(highlight=False, soft_wrap=True)

logger = logging.getLogger(__name__)

_Model = Annotated[str, typer.Argument(help="name of a model")]
_Decision = Annotated[str, typer.Argument(help="id of a decision, or enough of its beginning")]


def add_verbs(app: typer.Typer) -> None:
    """Add `rollback`, `retrain`, `approve`, `reject`, `freeze`, `thaw`, `retire` and `recover` to the command line."""
    for command in (rollback, retrain, approve, reject, freeze, thaw, retire, recover):
        app.command()(command)


def rollback(
    model: _Model,
    reason: Reason,
    to: Annotated[int | None, typer.Option(help="version; left out: the last good one that can answer")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="the version that answers now may return; left out: it is withdrawn for good")
    ] = False,
) -> None:
    """Serve an earlier version again, at once: no training, no build. It is proven before anything moves.

    The version that answered is withdrawn: neither a run nor a person brings it back, unless it is kept with --keep.
    """
    begun = _begin_rollback(model, reason, to, keep=keep)
    from mlops_assets.operations.by_hand import describe

    is_written = False
    try:
        with _told():
            decision = _hand(model).roll_back(reason, to, keep_former=keep, begun=begun)
        is_written = True
    finally:
        if begun is not None and not is_written and (version := _in_force(model, begun)) is not None:
            left = (
                f"the sensor {model}_response writes it down and does what is left, as long as `mlops-assets up` runs"
            )
            out.print(f"{begun}: version {version} is in force all the same; {left}", markup=False)
    if decision.outcome not in ("done", "unchanged"):
        stop(describe(decision))
    out.print(describe(decision), markup=False)


def retrain(
    model: _Model,
    reason: Reason,
    as_of: Annotated[
        str | None, typer.Option(help="event time (ISO 8601 with zone) up to which anything may be known")
    ] = None,
    window: Annotated[str | None, typer.Option(help="length of the training window, such as '90d'")] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="a feature to be left out; may be given several times")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="run the lifecycle here, and wait for its end")] = False,
) -> None:
    """Train a candidate, which the gates judge as ever. The sensor of the response starts it, or this command with --now."""
    from mlops_assets.operations.by_hand import describe
    from mlops_assets.operations.held_trainings import ends_trial

    spec = declared(model)
    request, moment = _request(spec, window, tuple(without or ())), _moment(as_of)
    with _told():
        decision = _hand(model).retrain(reason, request, moment, begins=now)
        ends = ends_trial(spec, _stores())
    if ends is not None:
        out.print(ends, markup=False)
    if not now:
        out.print(
            f"{describe(decision)}; the sensor {model}_response starts it, as long as `mlops-assets up` runs",
            markup=False,
        )
        return
    from mlops_assets.demo import show_progress
    from mlops_assets.operations.carry_out import TrainingWanted
    from mlops_assets.operations.jobs import JobFailed, run_job

    training = TrainingWanted(decision, 1)
    noted = f"the sensor {model}_response writes its end down, as long as `mlops-assets up` runs"
    try:
        run_job(
            PROJECT,
            f"{model}_lifecycle",
            show=lambda progress: show_progress(out, progress),
            config=training.config(),
            tags=training.tags,
        )
    except JobFailed as error:
        stop(f"{error}\n{decision.id}: the run has failed; {noted}")
    out.print(f"{decision.id}: the run has succeeded, see `mlops-assets releases {model}`; {noted}", markup=False)


def approve(decision: _Decision, reason: Reason) -> None:
    """Allow what waits for leave; the sensor of the response carries it out."""
    _answer(decision, reason, yes=True)


def reject(decision: _Decision, reason: Reason) -> None:
    """Forbid what waits for leave, or has not begun."""
    _answer(decision, reason, yes=False)


def freeze(model: _Model, reason: Reason) -> None:
    """Let nothing be done to a model by itself, until it is thawed."""
    with _told():
        _hand(model).freeze(reason)
    out.print(f"{model} is frozen: nothing is done to it by itself until `mlops-assets thaw {model} --reason ...`")


def thaw(model: _Model, reason: Reason) -> None:
    """Let automation go on."""
    with _told():
        _hand(model).thaw(reason)
    out.print(f"{model} is thawed: automation goes on")


def retire(model: _Model, reason: Reason) -> None:
    """Take a model out of service: callers get 410 with the reason. Its history stays."""
    with _told():
        changed = _hand(model).retire(reason)
    out.print(f"{model} is out of service since release {changed.plan.release}; {changed.smoke.why}", markup=False)


def recover(model: _Model, reason: Reason) -> None:
    """Let the champion answer again, after a fallback or a retirement."""
    with _told():
        changed = _hand(model).recover(reason)
    plan = changed.plan
    out.print(
        f"version {plan.champion.version} of {model} answers with release {plan.release}; {changed.smoke.why}",
        markup=False,
    )


def _begin_rollback(model: str, reason: str, to: int | None, *, keep: bool) -> str | None:
    """Publish the way back before anything is imported that only its proof and its record need: callers wait for nothing else.

    Returns
    -------
    str or None
        Id of the decision; None where the plan is not out, for whatever reason: the long way sees to it, or says why not.
    """
    from mlops_assets.operations.rollback import begin_roll_back
    from mlops_assets.operations.terms import read_terms
    from mlops_assets.stores.ids import new_id

    terms, decision, stores = read_terms(model), new_id("d"), _stores()
    if terms is None:
        return None
    now = datetime.now(UTC)
    try:
        published = begin_roll_back(
            terms, stores, to, reason=reason, decided_by=user(), now=now, origin=decision, keep_former=keep
        )
        plan = published.plan if published.is_new else None
    except Exception:
        # Whatever it is, the long way decides first and then meets it again: no fault of the quick one is the last word.
        logger.debug("%s: the quick way back of %s has failed", model, decision, exc_info=True)
        return decision if _may_be_out(stores, model, decision) else None
    if plan is None:
        return None
    out.print(f"version {plan.champion.version} of {model} is put back by release {plan.release}; it is being proven")
    return decision


def _in_force(model: str, decision: str) -> int | None:
    """The version that answers by the plan of a decision; None where no such plan is in force, or that cannot be told."""
    from mlops_assets.core.rollout import outcome_of
    from mlops_assets.stores.releases import ReleaseDamaged

    try:
        history = _stores().releases.history(model)
    except (OSError, ReleaseDamaged):
        return None
    made, taken_back = outcome_of(history, decision)
    return made.champion.version if made is not None and not taken_back and made == history[-1] else None


def _may_be_out(stores: "Stores", model: str, decision: str) -> bool:
    """Has the plan of a decision been published, although its publication has failed? True as well where that cannot be read."""
    from mlops_assets.stores.releases import ReleaseDamaged

    try:
        return any(plan.rollout == decision for plan in stores.releases.history(model))
    except (OSError, ReleaseDamaged):
        # Under the same decision the long way does no more than what is left; under another it would go back once more.
        return True


def _answer(decision: str, reason: str, *, yes: bool) -> None:
    from mlops_assets.operations.by_hand import answer
    from mlops_assets.operations.held_trainings import waits_for_trial

    with _told():
        one = answer(_stores(), decision, yes=yes, reason=reason, actor=user(), at=datetime.now(UTC))
    what = f"{one.what.action} of {one.model} ({one.id})"
    if yes:
        waits = waits_for_trial(declared(one.model), _stores(), one)
        how = f"it waits: {waits}" if waits else f"the sensor {one.model}_response carries it out"
        out.print(f"{what} is approved; {how}", markup=False)
    else:
        out.print(f"{what} is rejected", markup=False)


@contextmanager
def _told() -> Iterator[None]:
    """What cannot be done as a message and code 1."""
    from mlops_assets.operations.by_hand import NotPossible
    from mlops_assets.operations.plan_changes import ChangeFailed, ChangeRefused
    from mlops_assets.stores.database import LedgerUnavailable
    from mlops_assets.stores.ledger_chain import LedgerDamaged
    from mlops_assets.stores.releases import ReleaseDamaged

    try:
        yield
    except (NotPossible, ChangeRefused, ChangeFailed, LedgerUnavailable, LedgerDamaged, ReleaseDamaged) as error:
        stop(error)


def _hand(model: str) -> "ByHand":
    from mlops_assets.operations.by_hand import ByHand

    return ByHand(declared(model), _stores(), user(), lambda: datetime.now(UTC))


def _stores() -> "Stores":
    from mlops_assets.operations.stores import Stores

    return Stores(Home.from_environment())


def _request(spec: "ModelSpec", window: str | None, without: tuple[str, ...]) -> "TrainingRequest":
    from pydantic import ValidationError

    from mlops_assets.core.training_request import request_of

    unknown = [name for name in without if name not in spec.feature_names or not spec.feature(name).nullable]
    if unknown:
        allowed = ", ".join(one.name for one in spec.features if one.nullable)
        stop(f"--without {unknown[0]}: {spec.name} cannot be trained without it; choose of {allowed or 'none'}")
    try:
        return request_of({"trigger": "hand", "without": ",".join(without), "window": window or ""})
    except ValidationError:
        stop(f"--window {window!r} is no duration: write it like '90d' or '36h'")


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        stop(f"--as-of {text!r} is no ISO 8601 time: write it like 2013-03-01T05:00:00Z")
    if moment.tzinfo is None:
        stop(f"--as-of {text!r} names no time zone: end it with Z or an offset such as -05:00")
    return moment.astimezone(UTC)
