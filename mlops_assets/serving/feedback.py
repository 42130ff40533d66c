"""One feedback request: labels as callers send them, checked against the task, as records for the log."""

import math
from datetime import UTC, datetime

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.records import LabelRecord
from mlops_assets.serving.contract import LABELS, LabelItem, OneOrMany, in_utc
from mlops_assets.serving.errors import Refusal


def label_records(manifest: Manifest, body: bytes, max_labels: int) -> list[LabelRecord]:
    """Decode and check a feedback request.

    Raises
    ------
    Refusal
        Naming the field; nothing of a request with one bad label is accepted.
    """
    items, many = LABELS.decode(body, max_labels)
    received_at = datetime.now(UTC)
    records = []
    for index, item in enumerate(items):
        try:
            records.append(_record(manifest, item, received_at))
        except Refusal as refusal:
            field = OneOrMany.path("labels", index, many, refusal.field or "")
            raise Refusal(refusal.status, refusal.code, refusal.message, field) from None
    return records


def _record(manifest: Manifest, item: LabelItem, received_at: datetime) -> LabelRecord:
    if item.id is None and (item.entity is None or item.event_time is None):
        raise Refusal(422, "missing_field", "give the prediction's id, or both its entity and its event_time", "id")
    if item.id is not None and (item.entity is not None or item.event_time is not None):
        raise Refusal(422, "invalid_value", "give either the id, or the entity and the event_time, not both", "id")
    if isinstance(item.value, int) and not -(2**63) <= item.value < 2**63:
        raise Refusal(422, "invalid_value", "expected a whole number of at most 64 bits", "value")
    name = item.name or manifest.label
    return LabelRecord(
        model=manifest.model,
        name=name,
        value=_label_value(manifest, item.value) if name == manifest.label else item.value,
        observed_at=in_utc(item.observed_at, "observed_at") or received_at,
        received_at=received_at,
        id=item.id,
        entity=item.entity,
        event_time=in_utc(item.event_time, "event_time"),
        revision=item.revision,
    )


def _label_value(manifest: Manifest, value: float | int | str | bool) -> float | int | str:
    if manifest.task == "regression":
        if isinstance(value, bool | str):
            raise Refusal(422, "invalid_value", f"expected a number, got {value!r}", "value")
        if not math.isfinite(value):
            raise Refusal(422, "invalid_value", "expected a finite number", "value")
        return float(value)
    # A class may come as 1, 1.0 or true; it is logged as the class itself. Text and numbers are never mixed.
    for known in manifest.classes:
        if isinstance(known, str) == isinstance(value, str) and known == value:
            return known
    raise Refusal(422, "invalid_value", f"expected one of {list(manifest.classes)}, got {value!r}", "value")
