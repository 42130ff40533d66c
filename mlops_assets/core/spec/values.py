"""The kinds of value a declaration is made of: durations, times, shares, names, import paths.

What is declared with them does not belong here.
"""

import importlib
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from mlops_assets.core.spec.declaration import did_you_mean

_DURATION_UNITS = {
    unit: timedelta(seconds=size) for unit, size in (("w", 604_800), ("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|w)", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?\d*\.?\d+\s*")
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*[.:][^\W\d]\w*")


def _read_duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{value!r} is not a duration: write a number and one of s, min, h, d, w, such as '14d' or '36h'"
        )
    try:
        return timedelta(microseconds=round(Decimal(match[1]) * (_DURATION_UNITS[match[2]] // timedelta.resolution)))
    except OverflowError as error:
        raise ValueError(f"{value!r} is too long: at most {timedelta.max.days}d") from error


def format_duration(value: timedelta) -> str:
    """Write a duration the way the YAML does, in the largest unit that divides it."""
    for unit, size in _DURATION_UNITS.items():
        if value >= size and not value % size:
            return f"{value // size}{unit}"
    seconds, rest = divmod(value, timedelta(seconds=1))
    return f"{seconds}.{rest.microseconds:06d}".rstrip("0").rstrip(".") + "s"


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than nothing")
    return value


def _read_time(value: object) -> object:
    if isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        raise ValueError(f"{value!r} is not a time: write ISO 8601 with a time zone, such as 2013-03-01T05:00:00Z")
    return value


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} names no time zone: end it with Z or an offset such as -05:00")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{value.isoformat()} is out of range: UTC's calendar does not hold it") from error


def import_object(path: str) -> Any:
    """Import `package.module.name` (or `package.module:name`); ValueError says which part is missing."""
    if _IMPORT_PATH.fullmatch(path) is None:
        raise ValueError(f"{path!r} is not an import path such as 'package.module.name'")
    module_name, _, attribute = path.replace(":", ".").rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the named module does wrong at import is a mistake in what names it
        raise ValueError(f"{path!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        raise ValueError(f"{path!r}: module {module_name!r} has no {attribute!r}{did_you_mean(attribute, dir(module))}")
    return getattr(module, attribute)


def _estimator_path(path: str) -> str:
    estimator = import_object(path)
    if not (isinstance(estimator, type) and hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        raise ValueError(f"{path!r} is no scikit-learn estimator: it must be a class with fit and get_params")
    return path


def _loader_path(path: str) -> str:
    if not callable(import_object(path)):
        raise ValueError(f"{path!r} is not callable: name a function that returns a pandas DataFrame")
    return path


Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    AfterValidator(_positive),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["14d", "36h"], "description": "a number and s, min, h, d or w"}),
]
AwareDatetime = Annotated[
    datetime,
    BeforeValidator(_read_time),
    AfterValidator(_aware),
    WithJsonSchema({"type": "string", "description": "ISO 8601 with a time zone"}),
]
EstimatorPath = Annotated[str, AfterValidator(_estimator_path)]
LoaderPath = Annotated[str, AfterValidator(_loader_path)]
Share = Annotated[float, Field(ge=0, le=1)]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
