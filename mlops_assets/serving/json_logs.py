"""The service's own log as JSON, one object a line, where `MLOPS_LOG_FORMAT=json` asks for it. What was answered is not in it."""

import logging
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from mlops_assets.serving.state import LiveModel

_NAMES = {"levelname": "level", "name": "logger", "process": "pid", "exc_info": "traceback"}

# What BentoML adds to each line for its own text format.
_NOT_TOLD = ["levelname_bracketed", "component", "trace_msg", "request_id", "service_name"]


def log_as_json() -> None:
    """Let every handler that this process has write JSON: BentoML's and uvicorn's lines as well as our own.

    A line has `time` (UTC), `level`, `logger`, `pid`, `message`, `traceback` where there is one, and what `about` adds.
    """
    formatter = JsonFormatter(
        "{levelname}{name}{process}{message}",
        style="{",
        rename_fields=_NAMES,
        reserved_attrs=[*RESERVED_ATTRS, *_NOT_TOLD],
        timestamp="time",
        json_ensure_ascii=False,
    )
    loggers = [logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        handler.setFormatter(formatter)


def about(live: LiveModel | None, prediction_id: str | None = None, key_id: str | None = None) -> dict[str, Any]:
    """What a line is about, for `extra` of a logging call; what is not known is left out."""
    known: dict[str, Any] = {"prediction_id": prediction_id, "key_id": key_id}
    if live is not None:
        manifest = live.manifest
        known |= {"model": manifest.model, "version": manifest.version, "release": live.plan.release, "role": live.role}
    return {name: value for name, value in known.items() if value is not None}
