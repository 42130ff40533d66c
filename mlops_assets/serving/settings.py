"""What can be set from outside the service: environment variables, read once at start-up."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from mlops_assets.stores.home import Home
from mlops_assets.stores.prediction_log import Durability

SERVER_VARIABLE = "MLOPS_SERVER_PID"
AUTH_VARIABLE = "MLOPS_AUTH"
CERTIFICATE_VARIABLE = "MLOPS_TLS_CERTIFICATE"
KEY_VARIABLE = "MLOPS_TLS_KEY"

T = TypeVar("T")


@dataclass(frozen=True)
class ServingSettings:
    """Settings of one serving worker.

    Attributes
    ----------
    home
        The folder of all state, `MLOPS_HOME` (default `.mlops` in the working directory).
    log_durability
        `MLOPS_LOG_DURABILITY`: "os" (default) survives the death of the process, "disk" also the loss of power.
    log_segment_seconds
        `MLOPS_LOG_SEGMENT_SECONDS`: after so long a log segment is sealed, from when on the monitors can see it.
    max_body_bytes
        `MLOPS_MAX_BODY_BYTES`: a larger request body is answered 413. The default holds 10,000 rows of some 40 features.
    max_rows
        `MLOPS_MAX_ROWS`: more rows or labels in one request are answered 413.
    body_seconds
        `MLOPS_BODY_SECONDS`: a request body that has not arrived in full after so long is answered 408.
    poll_seconds
        `MLOPS_RELEASE_POLL_SECONDS`: how often the release pointer, and the file of API keys, are looked at.
    retry_seconds
        `MLOPS_LOAD_RETRY_SECONDS`: how long after a refused bundle it is tried again.
    server_pid
        `MLOPS_SERVER_PID`, set by `launch.py`: the process that started the worker and that it does not outlive; None where it was
        started otherwise.
    auth
        `MLOPS_AUTH`: "keys" asks every caller for an API key; "off" (default) is for a loopback address alone.
    max_wait_ms
        `MLOPS_MAX_WAIT_MS`: a request that would wait longer, for its turn or for the scorer, is answered 503 unread. Infinity
        (where it is not set) goes by what requests take: in a flood hardly any waits for another, else none longer than a second.
    max_in_flight
        `MLOPS_MAX_IN_FLIGHT`: while a worker answers so many requests, further ones are answered 503 unread.
    cache_rows
        `MLOPS_CACHE_ROWS`: answers kept for each model, for rows that are asked for again; 0 (default) keeps none.
    log_format
        `MLOPS_LOG_FORMAT`: "json" writes the service's own log as one JSON object a line; "text" (default) as BentoML does.
    trace_share
        `MLOPS_TRACE_SHARE`: the share of requests that get an OpenTelemetry span, at most 1; 0 (default) makes none.
    tls_certificate, tls_key
        `MLOPS_TLS_CERTIFICATE`, `MLOPS_TLS_KEY`: PEM files, with which `launch.py` answers HTTPS; both or neither.
    """

    home: Home
    log_durability: Durability = "os"
    log_segment_seconds: float = 300.0
    max_body_bytes: int = 8 * 2**20
    max_rows: int = 10_000
    poll_seconds: float = 0.05
    retry_seconds: float = 5.0
    server_pid: int | None = None
    body_seconds: float = 10.0
    auth: Literal["off", "keys"] = "off"
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    max_wait_ms: float = math.inf
    max_in_flight: int = 1000
    cache_rows: int = 0
    log_format: Literal["text", "json"] = "text"
    trace_share: float = 0.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "ServingSettings":
        """Read the settings. Raises `ValueError` naming the variable, its value and what is allowed."""
        durability = environment.get("MLOPS_LOG_DURABILITY", cls.log_durability)
        if durability not in ("os", "disk"):
            raise ValueError(f"MLOPS_LOG_DURABILITY={durability!r}: choose 'os' or 'disk'")
        auth = environment.get(AUTH_VARIABLE) or cls.auth
        if auth not in ("off", "keys"):
            raise ValueError(f"{AUTH_VARIABLE}={auth!r}: choose 'keys' or 'off'")
        log_format = environment.get("MLOPS_LOG_FORMAT") or cls.log_format
        if log_format not in ("text", "json"):
            raise ValueError(f"MLOPS_LOG_FORMAT={log_format!r}: choose 'text' or 'json'")
        certificate, key = (_file(environment, name) for name in (CERTIFICATE_VARIABLE, KEY_VARIABLE))
        if (certificate is None) != (key is None):
            raise ValueError(f"TLS needs both {CERTIFICATE_VARIABLE} and {KEY_VARIABLE}, or neither: set the other too")
        return cls(
            home=Home.from_environment(),
            log_durability="disk" if durability == "disk" else "os",
            log_segment_seconds=_positive(environment, "MLOPS_LOG_SEGMENT_SECONDS", float, cls.log_segment_seconds),
            max_body_bytes=_positive(environment, "MLOPS_MAX_BODY_BYTES", int, cls.max_body_bytes),
            max_rows=_positive(environment, "MLOPS_MAX_ROWS", int, cls.max_rows),
            poll_seconds=_positive(environment, "MLOPS_RELEASE_POLL_SECONDS", float, cls.poll_seconds),
            retry_seconds=_positive(environment, "MLOPS_LOAD_RETRY_SECONDS", float, cls.retry_seconds),
            server_pid=_positive(environment, SERVER_VARIABLE, int, 0) if environment.get(SERVER_VARIABLE) else None,
            body_seconds=_positive(environment, "MLOPS_BODY_SECONDS", float, cls.body_seconds),
            auth="keys" if auth == "keys" else "off",
            tls_certificate=certificate,
            tls_key=key,
            max_wait_ms=_positive(environment, "MLOPS_MAX_WAIT_MS", float, cls.max_wait_ms),
            max_in_flight=_positive(environment, "MLOPS_MAX_IN_FLIGHT", int, cls.max_in_flight),
            trace_share=_share(environment, "MLOPS_TRACE_SHARE"),
            log_format="json" if log_format == "json" else "text",
            cache_rows=_positive(environment, "MLOPS_CACHE_ROWS", int, 0) if environment.get("MLOPS_CACHE_ROWS") else 0,
        )


def _file(environment: Mapping[str, str], name: str) -> Path | None:
    text = environment.get(name)
    if not text:
        return None
    path = Path(text).absolute()
    if not path.is_file():
        raise ValueError(f"{name}={text!r} is not a file")
    return path


def _share(environment: Mapping[str, str], name: str) -> float:
    text = environment.get(name) or "0"
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} is not a number") from None
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={text!r} must be between 0 and 1")
    return value


def _positive(environment: Mapping[str, str], name: str, read: Callable[[str], T], default: T) -> T:
    text = environment.get(name)
    if text is None:
        return default
    try:
        value = read(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} is not a number") from None
    if not value > 0:  # type: ignore[operator]
        raise ValueError(f"{name}={text!r} must be above zero")
    return value
