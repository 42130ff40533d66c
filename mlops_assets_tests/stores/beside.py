"""A look at a database, and a hand in it, beside the store that owns it."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    """One transaction."""
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()
