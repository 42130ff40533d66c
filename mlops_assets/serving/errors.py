"""A request that is not answered with 200: the status, and the JSON that says why."""

import msgspec

Headers = tuple[tuple[bytes, bytes], ...]


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """What is wrong: a stable code for programs, a message for people, and the path of the field where there is one."""

    code: str
    message: str
    field: str | None = None


class ErrorAnswer(msgspec.Struct):
    """The JSON of every answer that is not 200."""

    error: ErrorBody


class Refusal(Exception):
    """Ends the handling of a request with a status and an error body."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        field: str | None = None,
        headers: Headers = (),
    ):
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.headers = headers

    @property
    def body(self) -> bytes:
        return msgspec.json.encode(ErrorAnswer(ErrorBody(self.code, self.message, self.field)))

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.field is None else f"{self.code} at {self.field}: {self.message}"
