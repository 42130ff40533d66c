"""From a situation to what follows: facts for the ledger, and the decision."""

import hashlib

import msgspec

from mlops_assets.core.ledger import Decided, Fact, Mitigated, Record
from mlops_assets.core.monitoring.health import DataHealth, ModelHealth
from mlops_assets.core.response.findings import find, keep
from mlops_assets.core.response.remedies import Remedy, choose, mode_of
from mlops_assets.core.response.situation import Situation
from mlops_assets.core.spec import ModelSpec


class Response(msgspec.Struct, frozen=True):
    """What follows: facts for the ledger, each with its incident, and the decision. `asks_for_rivals` wants to be asked again."""

    facts: tuple[tuple[str, Fact], ...]
    decision: Decided
    decision_id: str
    asks_for_rivals: bool = False


def respond(spec: ModelSpec, seen: Situation, record: Record) -> Response:
    """Find what is wrong, open, join and close incidents accordingly, and choose the one thing to do now.

    The same situation and record give the same response, ids included. Nothing but `decision` asks for anything to be done.
    """
    findings = find(spec, seen, record)
    facts, after = keep(spec, seen, record, findings)
    remedy = choose(spec, seen, after, findings)
    known = {one.cause: one.id for one in after.open_incidents}
    incidents = tuple(known[cause] for cause in remedy.causes if cause in known)
    remedy = _not_asked_again(remedy, incidents, record)
    decision = Decided(
        action=remedy.action,
        mode=mode_of(spec, remedy.action),
        reason=remedy.reason,
        window=seen.window,
        incidents=incidents,
        evidence=remedy.evidence or tuple(line for one in findings for line in one.evidence),
        details=remedy.details,
        policy=policy_of(spec),
        inputs=_digest(seen.window, *map(_stamp, seen.data), *map(_stamp, seen.model), *_who(seen)),
    )
    if remedy.action == "impute" and not decision.asks_for_work:
        facts += [(one, Mitigated("the service imputes it as declared")) for one in incidents]
    # what is looked at again is not decided again: the id leaves out how things are worded
    parts = (spec.name, seen.window, remedy.action, *incidents, *sorted(map(str, remedy.details.items())))
    return Response(tuple(facts), decision, f"d-{_digest(*parts)}", remedy.wants_rivals)


def policy_of(spec: ModelSpec) -> str:
    """Version of the declared policy: a digest of all that decisions depend on."""
    declared = (spec.response, spec.monitoring, spec.imputation)
    return _digest(*(part.model_dump_json() for part in declared))


def _not_asked_again(remedy: Remedy, incidents: tuple[str, ...], record: Record) -> Remedy:
    """What a person has rejected is not asked for again while the incident lasts; a training is, after the cooldown."""
    if remedy.action == "retrain":
        return remedy
    for one in record.decisions:
        same = one.what.action == remedy.action and one.what.details == remedy.details
        if one.rejected_by is not None and same and set(incidents) <= {*one.what.incidents} and incidents:
            why = f"{remedy.reason}; {one.rejected_by} has rejected to {remedy.action}: {one.answer}"
            return Remedy("alert", why, remedy.causes, evidence=remedy.evidence)
    return remedy


def _stamp(health: DataHealth | ModelHealth) -> str:
    return f"{health.window} {health.version} {health.verdict} {'; '.join(health.reasons)}"


def _who(seen: Situation) -> tuple[str, ...]:
    tried = () if seen.on_trial is None else (f"{seen.on_trial} is on trial",)
    return str(seen.champion), *tried


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
