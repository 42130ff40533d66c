"""`python -m mlops_assets.cli`."""

from mlops_assets.cli.main import app

app()
