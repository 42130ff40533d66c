import shutil
from pathlib import Path

import pytest

from mlops_assets.operations import release
from mlops_assets.stores.registry import Registry


@pytest.fixture(scope="session")
def migrated_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared MLflow store: making one takes seconds, copying one does not."""
    folder = tmp_path_factory.mktemp("mlflow")
    Registry.local(folder).experiment("prepared")
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def no_bento(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Building a Bento takes seconds and is tested where it belongs; tests marked `bento` build it for real."""
    if "bento" not in request.keywords:
        monkeypatch.setattr(
            release, "build_bento", lambda home, *, instead: f"predictor:{instead.model}{instead.release}"
        )


@pytest.fixture
def home(tmp_path: Path, migrated_registry: Path) -> Path:
    (tmp_path / "mlflow").mkdir()
    shutil.copy(migrated_registry, tmp_path / "mlflow" / "mlflow.db")
    return tmp_path
