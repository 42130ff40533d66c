"""What the descriptions of several routes share: the headers that callers may send, and the answers that are not 200."""

from typing import Any

_FAILURES = {
    "400": "Malformed",
    "401": "No API key that opens",
    "403": "The API key has not the scope",
    "404": "There is no such model, version or path",
    "405": "Another method is meant",
    "408": "The body did not arrive in time",
    "409": "There is such an answer, and it cannot be explained",
    "410": "Retired",
    "413": "Too large",
    "415": "Not JSON",
    "422": "Does not fit the contract",
    "500": "Failed",
    "501": "What makes explanations is not installed",
    "503": "Not now",
}
POST_FAILURES = tuple(status for status in _FAILURES if status not in ("409", "501"))
EXPLAIN_FAILURES = tuple(_FAILURES)


HEADERS = (
    "`x-request-deadline-ms` says how many milliseconds the caller still waits: what would take longer is answered 503 at once, "
    "and not read. With `x-mlops-debug: 1` the reply's `x-mlops-release` says which release, versions and roles answered. "
    "A `traceparent` that is sampled becomes the parent of a span."
)


def failures(*statuses: str, error: str = "Error") -> dict[str, Any]:
    """The answers with these statuses; `error` names the schema of their body."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}}
    return {status: {"description": _FAILURES[status], "content": content} for status in statuses}
