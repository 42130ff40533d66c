"""What every part of a declaration has in common: strict fields, and mistakes that say where they are.

No part itself belongs here.
"""

import difflib
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails


class Declaration(BaseModel):
    """A part of a declaration: frozen, and with no field but those it names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, value: object) -> object:
        if isinstance(value, dict):
            for name, given in value.items():
                if name not in cls.model_fields:
                    raise mistake(
                        (str(name),),
                        f"Extra inputs are not permitted; allowed are {', '.join(cls.model_fields)}",
                        given,
                    )
        return value


def mistake(where: tuple[str | int, ...], what: str, given: object) -> ValidationError:
    """An error at a field below the one that is being validated; pydantic puts the path to that one before it."""
    # pydantic's own kind of error, because Dagster makes it anew by the kind's name when it adds file and line
    details = InitErrorDetails(type="value_error", loc=where, input=given, ctx={"error": ValueError(what)})
    return ValidationError.from_exception_data("declaration", [details])


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the allowed names that look like it, if any do."""
    close = difflib.get_close_matches(name, list(allowed), n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
