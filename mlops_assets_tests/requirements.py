"""What a test needs from the machine: skipped by name where it is missing, failed where nothing may be skipped."""

import os
import shutil

import pytest


def needs(program: str) -> str:
    """The path of a program. Skips the test where there is none; with MLOPS_NO_SKIP set, which `make test-slow` does, fails it."""
    path = shutil.which(program)
    if path is not None:
        return path
    message = f"{program} is not installed"
    if os.environ.get("MLOPS_NO_SKIP"):
        pytest.fail(f"{message}, and here nothing may be skipped")
    pytest.skip(message)
