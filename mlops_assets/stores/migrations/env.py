"""Run by Alembic on the connection that `stores/database.py` has opened, locked and begun."""

from alembic import context

from mlops_assets.stores.ledger_tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
