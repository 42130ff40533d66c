"""Where state lives: one module, one kind of state, a clear interface, no Dagster."""
