"""What a request must look like: typed decoders made from a model's manifest, and errors that name the field.

A value outside of a closed domain is refused, as `core/schema.py` puts it into quarantine offline. One outside of an open domain is
flagged in `core`, and never refused.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

import msgspec

from mlops_assets.core.manifest import FeatureContract, Manifest
from mlops_assets.serving.errors import Refusal

RawValue = float | str | bool | None
RawRow = tuple[RawValue, ...]

Key = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]

# The fields that each object of a body may have, by its path as in `rows[].features`; the body itself is "".
Fields = Mapping[str, tuple[str, ...]]

_MOST_NAMED = 400

T = TypeVar("T")


class NotOneRow(Exception):
    """A request that is a list, or wrong."""


class PredictItem(Protocol):
    """One decoded row of a predict request; `features` is a struct in the order of the manifest."""

    features: Any
    id: str | None
    entity: str | None
    event_time: datetime | None
    probe: bool


class LabelItem(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One truth as the caller sends it: for a prediction id, or for an entity at an event time."""

    value: float | int | str | bool
    id: Key | None = None
    entity: Key | None = None
    event_time: AwareTime | None = None
    name: Key | None = None
    observed_at: AwareTime | None = None
    revision: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0


class _ManyLabels(msgspec.Struct, forbid_unknown_fields=True):
    labels: list[LabelItem]


def field_names(struct: type[Any]) -> tuple[str, ...]:
    """The names of a struct's fields in JSON."""
    names: tuple[str, ...] = struct.__struct_encode_fields__
    return names


class OneOrMany(Generic[T]):
    """Decodes a body that is one item, or an object with nothing but a list of them.

    Parameters
    ----------
    parts
        The structs inside of an item, by their field.

    Attributes
    ----------
    decode_one
        Decodes a body that is one item, and raises what msgspec does.
    """

    def __init__(
        self, one: type[T], many: type[Any], key: str, parts: Mapping[str, type[msgspec.Struct]] | None = None
    ):
        self.decode_one: Callable[[bytes], T] = msgspec.json.Decoder(one).decode
        self._many = msgspec.json.Decoder(many)
        self._key = key
        # The list is the only key of its object, so it is also the first.
        self._is_many = re.compile(rb'\s*\{\s*"%s"\s*:' % key.encode()).match
        item = {"": field_names(one)} | {name: field_names(part) for name, part in (parts or {}).items()}
        self._fields_of_one: Fields = item
        self._fields_of_many: Fields = {
            "": field_names(many),
            **{f"{key}[].{path}".rstrip("."): names for path, names in item.items()},
        }

    def decode(self, body: bytes, max_items: int) -> tuple[list[T], bool]:
        """Decode a body; also tells whether it was a list. Raises `Refusal` naming the field."""
        try:
            return [self.decode_one(body)], False
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if self._is_many(body) is None:
                raise refusal_of(error, body, self._fields_of_one, "" if max_items == 1 else self._key) from None
        try:
            items: list[T] = getattr(self._many.decode(body), self._key)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise refusal_of(error, body, self._fields_of_many) from None
        if not items:
            raise Refusal(422, "invalid_value", "the list is empty", self._key)
        if len(items) > max_items:
            message = f"{len(items)} items, at most {max_items} are allowed in one request"
            raise Refusal(413, "too_many_rows", message, self._key)
        return items, True

    @staticmethod
    def path(key: str, position: int, many: bool, field: str) -> str:
        """The path of an item's field as the caller wrote it, such as `rows[3].id`."""
        return f"{key}[{position}].{field}" if many else field


LABELS = OneOrMany(LabelItem, _ManyLabels, "labels")


class RowContract:
    """The requests that one model understands."""

    def __init__(self, manifest: Manifest):
        names = [feature.name for feature in manifest.features]
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [
            _field(position, feature) for position, feature in enumerate(manifest.features)
        ]
        # Fields are numbered, because a feature's name need not be a Python name.
        features = msgspec.defstruct(
            "Features",
            fields,
            rename={f"f{position}": name for position, name in enumerate(names)},
            forbid_unknown_fields=True,
            kw_only=True,
        )
        row = msgspec.defstruct(
            "Row",
            [
                ("features", features),
                ("id", Key | None, None),
                ("entity", Key | None, None),
                ("event_time", AwareTime | None, None),
                ("probe", bool, False),
            ],
            forbid_unknown_fields=True,
        )
        rows = msgspec.defstruct("Rows", [("rows", list[row])], forbid_unknown_fields=True)  # type: ignore[valid-type]
        self._decoder: OneOrMany[Any] = OneOrMany(row, rows, "rows", {"features": features})
        self._names = names
        self._whole = [position for position, feature in enumerate(manifest.features) if feature.type == "integer"]

    def decode_one(self, body: bytes) -> tuple[PredictItem, RawRow]:
        """The row of a predict request that is no list, and its raw values in the manifest's order.

        Raises
        ------
        NotOneRow, Refusal
            For everything else, of which `decode` tells what it is.
        """
        try:
            item = self._decoder.decode_one(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NotOneRow from error
        row = msgspec.structs.astuple(item.features)
        for position in self._whole:
            value = row[position]
            if value is not None and not value.is_integer():
                raise NotOneRow
        if item.event_time is not None and item.event_time.tzinfo is not UTC:
            item.event_time = in_utc(item.event_time, "event_time")
        return item, row

    def decode(self, body: bytes, max_rows: int) -> tuple[list[PredictItem], list[RawRow], bool]:
        """The rows of a predict request, their raw values in the manifest's order, and whether it was a list.

        Raises
        ------
        Refusal
            400 for what is not JSON, 413 for too many rows, 422 for what does not fit the contract.
        """
        items, many = self._decoder.decode(body, max_rows)
        raw = [msgspec.structs.astuple(item.features) for item in items]
        for position in self._whole:
            for index, values in enumerate(raw):
                value = values[position]
                if value is not None and not value.is_integer():
                    field = self._decoder.path("rows", index, many, f"features.{self._names[position]}")
                    raise Refusal(422, "invalid_value", f"expected a whole number, got {value!r}", field)
        for index, item in enumerate(items):
            if item.event_time is not None and item.event_time.tzinfo is not UTC:
                item.event_time = in_utc(item.event_time, self._decoder.path("rows", index, many, "event_time"))
        if many:
            _require_distinct_ids(items)
        return items, raw, many


def in_utc(time: datetime | None, field: str) -> datetime | None:
    """The same moment in UTC. Raises `Refusal` for one that UTC's calendar does not hold."""
    try:
        return None if time is None else time.astimezone(UTC)
    except OverflowError:
        raise Refusal(422, "invalid_value", "the time is out of range", field) from None


_TYPES: dict[str, Any] = {"number": float, "integer": float, "boolean": bool, "category": str}


def _field(position: int, feature: FeatureContract) -> tuple[str, Any] | tuple[str, Any, Any]:
    kind = _closed(feature) if feature.closed else _TYPES[feature.type]
    return (f"f{position}", kind | None, None) if feature.nullable else (f"f{position}", kind)


def _closed(feature: FeatureContract) -> Any:
    """The type that holds the values of a closed domain and no others."""
    if feature.type in ("number", "integer"):
        return Annotated[float, msgspec.Meta(ge=feature.minimum, le=feature.maximum)]
    return Literal[feature.levels] if feature.levels is not None else _TYPES[feature.type]


def _require_distinct_ids(items: list[Any]) -> None:
    seen: set[str] = set()
    for index, item in enumerate(items):
        if item.id is None:
            continue
        if item.id in seen:
            raise Refusal(
                422, "invalid_value", f"the id {item.id!r} is used twice in this request", f"rows[{index}].id"
            )
        seen.add(item.id)


_AT = re.compile(r"(?s)(?P<what>.*) - at `\$\.?(?P<path>.*)`")
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_POSITION = re.compile(r"\[\d+\]")
_NOT_FINITE = object()


def refusal_of(
    error: msgspec.DecodeError | UnicodeDecodeError, body: bytes, fields: Fields, instead: str = ""
) -> Refusal:
    """Turn a decoder's error into an answer that names the field the way the caller wrote it.

    Parameters
    ----------
    fields
        What an answer to an unknown field lists.
    instead
        A field that the body may have in place of all others.
    """
    if not isinstance(error, msgspec.ValidationError):
        return _malformed(error, body)
    match = _AT.fullmatch(str(error))
    what, path = (match["what"], match["path"]) if match else (str(error), "")
    if missing := _MISSING.fullmatch(what):
        return Refusal(422, "missing_field", "this field is required", _join(path, missing["name"]))
    if unknown := _UNKNOWN.fullmatch(what):
        known = _known(fields.get(_POSITION.sub("[]", path), ()), "" if path else instead)
        return Refusal(422, "unknown_field", f"there is no such field{known}", _join(path, unknown["name"]))
    return Refusal(422, "invalid_value", what.replace("`", "").replace(" | null", " or null"), path or None)


def _known(names: tuple[str, ...], instead: str) -> str:
    """The fields that there are, as the end of a sentence that stays short."""
    if not names:
        return ""
    told: list[str] = []
    length = 0
    for name in names:
        length += len(name) + 2
        if told and length > _MOST_NAMED:
            break
        told.append(name[:_MOST_NAMED])
    more = f" and {len(names) - len(told)} more" if len(told) < len(names) else ""
    alone = f"; or {instead} alone, a list" if instead else ""
    return f"; there {'is' if len(names) == 1 else 'are'} {', '.join(told)}{more}{alone}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _malformed(error: msgspec.DecodeError | UnicodeDecodeError, body: bytes) -> Refusal:
    if not body.strip():
        return Refusal(400, "malformed_json", "the body is empty, expected a JSON object")
    if isinstance(error, UnicodeDecodeError):
        return Refusal(400, "malformed_json", "the body is not UTF-8 text")
    try:
        lenient = json.loads(body, parse_constant=lambda _: _NOT_FINITE)
    except (ValueError, RecursionError):
        return Refusal(400, "malformed_json", str(error))
    path = _find(lenient, "")
    if path is None:
        return Refusal(400, "malformed_json", str(error))
    return Refusal(422, "invalid_value", "NaN and Infinity are not JSON: leave the field out, or send null", path)


def _find(value: Any, path: str, depth: int = 0) -> str | None:
    """The path of the first NaN or Infinity in leniently parsed JSON, as deep as a request goes."""
    if value is _NOT_FINITE:
        return path
    if depth > 4:
        return None
    children = (
        [(_join(path, name), child) for name, child in value.items()]
        if isinstance(value, dict)
        else [(f"{path}[{index}]", child) for index, child in enumerate(value)]
        if isinstance(value, list)
        else []
    )
    return next((found for place, child in children if (found := _find(child, place, depth + 1)) is not None), None)
