"""The loss that a model must come back to, beside each incident."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; it is not known of incidents that are there already."""
    op.add_column("incidents", sa.Column("level", sa.Double))
