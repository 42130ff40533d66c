"""What runs inside the Bento: core and stores, never Dagster."""
