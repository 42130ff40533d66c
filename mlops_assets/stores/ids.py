"""Ids of what the ledger tells of; apart from it, because a decision has one before the ledger is opened."""

from typing import Literal

import uuid_utils


def new_id(prefix: Literal["i", "d"]) -> str:
    """A new id of an incident ("i") or a decision ("d"), in the order of time."""
    return f"{prefix}-{uuid_utils.uuid7()}"
