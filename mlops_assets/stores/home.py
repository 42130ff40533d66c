"""The folder that holds all local state, and where each store keeps its part in it."""

import os
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT_VARIABLE = "MLOPS_HOME"
DEFAULT = ".mlops"
LEDGER_VARIABLE = "MLOPS_LEDGER_URL"


@dataclass(frozen=True)
class Home:
    """All local state under one folder, which can be deleted to start afresh."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """`$MLOPS_HOME`, or `.mlops` in the working directory."""
        return cls(Path(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT).absolute())

    @property
    def bundles(self) -> Path:
        return self.root / "bundles"

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    @property
    def workers(self) -> Path:
        return self.root / "workers"

    @property
    def prediction_log(self) -> Path:
        return self.root / "log"

    @property
    def lake(self) -> Path:
        return self.root / "lake"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow"

    @property
    def bentoml(self) -> Path:
        return self.root / "bentoml"

    @property
    def dagster(self) -> Path:
        return self.root / "dagster"

    @property
    def ledger(self) -> str:
        """URL of the ledger's database: `$MLOPS_LEDGER_URL`, or an SQLite file in the folder."""
        return os.environ.get(LEDGER_VARIABLE) or f"sqlite:///{self.root.absolute() / 'ledger.db'}"

    @property
    def service_address(self) -> Path:
        return self.root / "service.url"

    def service_url(self) -> str | None:
        """Where the service of this home answers, as its supervisor wrote it down; None where none runs."""
        try:
            return self.service_address.read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None
