"""What an operator types: `mlops-assets`. Each module adds its commands to `main`; `operations` do the work."""

from mlops_assets.cli.main import app

__all__ = ["app"]
