"""The ground a drill stands on: a project folder with state of its own, put back for each drill as two trained models left it.

The folder stays at one path, because MLflow keeps absolute ones. Running anything on it is the business of `system.py`.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import mlops_assets
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.jobs import run_job
from mlops_assets.operations.models import DEFS, declared_models
from mlops_assets.stores.home import ENVIRONMENT_VARIABLE, LEDGER_VARIABLE, Home

PACKAGE = Path(mlops_assets.__file__).parent
SEGMENT_SECONDS = 1
_FILES = ("dagster.yaml", "workspace.yaml", "pyproject.toml")
_KEY = "trained-by"
# What a trained model depends on; when any of it changes, the models are trained anew.
_SHAPES = ("defs", "sources", "core/spec", "core/scoring", "core/training.py", "core/imputation.py", "core/manifest.py")

Overrides = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Ground:
    """One work folder: `project` is what a clone would be, with `.mlops` in it, `snapshot` what is put back for each drill."""

    folder: Path

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def home(self) -> Home:
        return Home(self.project / ".mlops")

    @property
    def snapshot(self) -> Path:
        return self.folder / "snapshot"

    @property
    def declared(self) -> Path:
        """The declarations that the project's are made from."""
        return DEFS

    @property
    def defs(self) -> Path:
        """The declarations of the project: what the drill wants of those."""
        return self.project / PACKAGE.name / "defs"

    def restore(self, models: tuple[str, ...], overrides: Overrides | None = None) -> dict[str, ModelSpec]:
        """Put the trained state back, with only these models declared, and some of their fields otherwise than shipped."""
        self.clear()
        self._make_project(models, overrides or {})
        shutil.copytree(self.snapshot, self.home.root, symlinks=True)
        (self.home.root / _KEY).unlink(missing_ok=True)
        return declared_models(self.defs)

    def clear(self) -> None:
        """Remove the project, and what a drill that was killed has left mounted in it."""
        self.unmount()
        if self.project.exists():
            shutil.rmtree(self.project)

    def unmount(self) -> None:
        """Take away every file system that a drill has mounted in the project."""
        for place in _mounts_below(self.project):
            subprocess.run(["umount", "--lazy", str(place)], check=False)

    def train(self, say: Callable[[str], None], *, anew: bool = False) -> None:
        """Train and release both models once, unless that has been done with the same declarations and code.

        Raises
        ------
        JobFailed
            When a lifecycle run fails.
        """
        key = _digest()
        known = self.snapshot / _KEY
        if not anew and known.is_file() and known.read_text() == key:
            return
        shutil.rmtree(self.snapshot, ignore_errors=True)
        self.clear()
        self._make_project(tuple(declared_models(self.declared)), {})
        with self.environment():
            for spec in declared_models(self.defs).values():
                say(f"training {spec.name}, once for all drills")
                config = {"ops": {f"{spec.name}__raw_data": {"config": {"as_of": spec.live_from.isoformat()}}}}
                run_job(self.project, f"{spec.name}_lifecycle", config=config, show=lambda _: None)
        (self.home.root / _KEY).write_text(key)
        shutil.copytree(self.home.root, self.snapshot, symlinks=True)

    @contextmanager
    def environment(self) -> Iterator[None]:
        """What leads this process and those it starts to the ground, for the length of a block."""
        before = dict(os.environ)
        os.environ.pop(LEDGER_VARIABLE, None)
        os.environ.update(
            {
                ENVIRONMENT_VARIABLE: str(self.home.root),
                "DAGSTER_HOME": str(self.project),
                "PYTHONPATH": str(self.project),
                "OMP_NUM_THREADS": "1",
                "MLOPS_LOG_SEGMENT_SECONDS": str(SEGMENT_SECONDS),
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "BENTOML_DO_NOT_TRACK": "True",
            }
        )
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def _make_project(self, models: tuple[str, ...], overrides: Overrides) -> None:
        self.project.mkdir(parents=True)
        for name in _FILES:
            shutil.copy(PACKAGE.parent / name, self.project)
        # A copy of the package, which programs started in the project find first: it declares what the drill wants.
        ignored = shutil.ignore_patterns("__pycache__", "defs")
        shutil.copytree(PACKAGE, self.project / PACKAGE.name, ignore=ignored)
        shutil.copytree(PACKAGE.parent / "bentos", self.project / "bentos", ignore=ignored)
        for model in models:
            document = yaml.safe_load((self.declared / model / "defs.yaml").read_text(encoding="utf-8"))
            document["attributes"] = overridden(document["attributes"], overrides.get(model, {}))
            folder = self.defs / model
            folder.mkdir(parents=True)
            text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
            (folder / "defs.yaml").write_text(text, encoding="utf-8")


def overridden(declared: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A declaration with changes laid over it.

    Mappings are changed key by key; of the features, a list, those named are changed; everything else is replaced.
    """
    after = dict(declared)
    for name, change in changes.items():
        before = after.get(name)
        if isinstance(before, Mapping) and isinstance(change, Mapping):
            after[name] = overridden(before, change)
        elif name == "features" and isinstance(before, list) and isinstance(change, Mapping):
            after[name] = [overridden(one, change.get(one["name"], {})) for one in before]
        else:
            after[name] = change
    return after


def _digest() -> str:
    digest = hashlib.sha256()
    for shape in _SHAPES:
        place = PACKAGE / shape
        files = [place] if place.is_file() else sorted(place.rglob("*"))
        for path in files:
            if path.suffix in (".py", ".yaml"):
                digest.update(f"{path.relative_to(PACKAGE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _mounts_below(folder: Path) -> list[Path]:
    mounts = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines()]
    return [place for place in mounts if place.is_relative_to(folder)]
