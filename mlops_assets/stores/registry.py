"""MLflow: runs, registered versions of scikit-learn pipelines (skops format), aliases and their history.

An alias moves and MLflow forgets where it was, so each move is also written down as a tag of the version it moved to.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import mlflow
import msgspec
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sklearn.pipeline import Pipeline

_ALIASED = "aliased."
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


class AliasMove(msgspec.Struct, frozen=True):
    """`alias` came to point at `version`, and why."""

    alias: str
    version: int
    at: datetime
    reason: str


class VersionFacts(msgspec.Struct, frozen=True):
    """A registered version with its run and tags."""

    version: int
    run_id: str
    created_at_ms: int
    tags: dict[str, str]


@dataclass(frozen=True)
class Registry:
    """Tracking and registry behind one URI (`sqlite:///...` or a server); artifacts go below `artifacts`."""

    tracking_uri: str
    artifacts: str

    @classmethod
    def local(cls, folder: Path) -> "Registry":
        """The default: an SQLite file and a folder, nothing to start."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri())

    @property
    def client(self) -> MlflowClient:
        _limit_patience()
        return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    def use(self) -> None:
        """Point MLflow's module-level functions here, and keep it from reporting usage."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        _limit_patience()
        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_registry_uri(self.tracking_uri)

    def experiment(self, name: str) -> str:
        """The id of the experiment, made with our artifact location if it is not there."""
        existing = self.client.get_experiment_by_name(name)
        if existing is not None:
            return str(existing.experiment_id)
        try:
            return str(self.client.create_experiment(name, artifact_location=f"{self.artifacts}/{name}"))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self.experiment(name)

    @contextmanager
    def active(self, run_id: str) -> Iterator[None]:
        """Make `run_id` the active run, as MLflow's fluent functions want it, without touching its status."""
        current = mlflow.active_run()
        if current is not None and current.info.run_id == run_id:
            yield
            return
        status = self.client.get_run(run_id).info.status
        mlflow.start_run(run_id=run_id, nested=True)
        try:
            yield
        finally:
            mlflow.end_run(status=status)

    def register(
        self, model: str, run_id: str, name: str, pipeline: Pipeline, trusted: tuple[str, ...], tags: dict[str, str]
    ) -> int:
        """Log a fitted pipeline to the run and register it as the model's next version, which is returned."""
        self.use()
        with self.active(run_id):
            logged = mlflow.sklearn.log_model(
                pipeline,
                name=name,
                serialization_format="skops",
                skops_trusted_types=list(trusted),
                pip_requirements=["mlops-assets"],
            )
        client = self.client
        try:
            client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = client.create_model_version(
            model, source=logged.model_uri, run_id=run_id, model_id=logged.model_id, tags=tags
        )
        return int(version.version)

    def load(self, model: str, version: int) -> Pipeline:
        """The scikit-learn pipeline of a registered version."""
        self.use()
        return mlflow.sklearn.load_model(f"models:/{model}/{version}")

    def version(self, model: str, version: int) -> VersionFacts:
        return _facts(self.client.get_model_version(model, str(version)))

    def versions(self, model: str) -> tuple[VersionFacts, ...]:
        """All registered versions, oldest first; none when the model was never registered."""
        found = self.client.search_model_versions(f"name = '{model}'")
        return tuple(sorted((_facts(version) for version in found), key=lambda facts: facts.version))

    def tag(self, model: str, version: int, key: str, value: str) -> None:
        self.client.set_model_version_tag(model, str(version), key, value)

    def move_alias(self, model: str, move: AliasMove) -> None:
        """Point an alias at a version and write the move down. The same move twice is one move."""
        if self.aliased(model, move.alias) == move.version:
            return
        moves = self._moves(self.version(model, move.version), move.alias)
        # What was written down by a process that died before the alias moved is there already.
        moves += [] if move in moves else [move]
        self.tag(model, move.version, _ALIASED + move.alias, msgspec.json.encode(moves).decode())
        self.client.set_registered_model_alias(model, move.alias, str(move.version))

    def aliased(self, model: str, alias: str) -> int | None:
        """The version that an alias points at, None where it points nowhere."""
        try:
            return int(self.client.get_model_version_by_alias(model, alias).version)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None

    def alias_history(self, model: str, alias: str) -> tuple[AliasMove, ...]:
        """Every move of an alias, oldest first."""
        moves = [move for facts in self.versions(model) for move in self._moves(facts, alias)]
        return tuple(sorted(moves, key=lambda move: move.at))

    @staticmethod
    def _moves(facts: VersionFacts, alias: str) -> list[AliasMove]:
        tag = _ALIASED + alias
        try:
            return msgspec.json.decode(facts.tags.get(tag, "[]"), type=list[AliasMove])
        except msgspec.DecodeError as error:
            raise ValueError(
                f"the tag {tag} of version {facts.version} (run {facts.run_id}) is no history of an alias ({error}): "
                "restore it, or delete it and with it what it told"
            ) from error

    def log_text(self, run_id: str, text: str, file: str) -> None:
        self.client.log_text(run_id, text, file)

    def log_folder(self, run_id: str, folder: Path, to: str) -> None:
        self.client.log_artifacts(run_id, str(folder), to)

    def fetch_folder(self, run_id: str, logged: str, to: Path) -> Path:
        """Copy a folder that was logged to a run below `to`, and return where it is.

        Raises
        ------
        FileNotFoundError
            When the run has no such folder, or is not there itself.
        OSError
            When it cannot be read or written, or it cannot be told whether it is there.
        """
        if not self._has(run_id, logged):
            raise FileNotFoundError(f"run {run_id} has no folder {logged}")
        try:
            return Path(self.client.download_artifacts(run_id, logged, str(to)))
        except (MlflowException, OSError) as error:
            raise OSError(f"{logged} of run {run_id} cannot be fetched: {error}") from error

    def _has(self, run_id: str, logged: str) -> bool:
        """Whether a folder was logged to a run. Of one that has nothing at all that is not said: its files may be out of reach."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise FileNotFoundError(f"MLflow has no run {run_id}") from error
            raise OSError(f"it cannot be told whether run {run_id} has {logged}: {error}") from error
        try:
            # Not the client's list: that names the run's models too, by the database, whether or not a file of them is there.
            repository = get_artifact_repository(str(run.info.artifact_uri), tracking_uri=self.tracking_uri)
            above = str(PurePosixPath(logged).parent)
            if any(one.path == logged and one.is_dir for one in repository.list_artifacts(above)):
                return True
            has_others = bool(repository.list_artifacts(None))
        except MlflowException as error:
            raise OSError(f"it cannot be told whether run {run_id} has {logged}: {error}") from error
        if not has_others:
            raise OSError(f"no file of run {run_id} is to be found: is the folder of the artifacts in reach?")
        return False

    def log_metrics(self, run_id: str, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.client.log_metric(run_id, name, value)

    def run_parameters(self, run_id: str) -> dict[str, Any]:
        return dict(self.client.get_run(run_id).data.params)


def _limit_patience() -> None:
    """Have MLflow give a server up that is down, unless its user has said otherwise. It reads these at each request.

    By itself it tries seven times again, two minutes each: a server that refuses connections is known to be down after four
    minutes, which is longer than a sensor may take.
    """
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)


def _facts(version: ModelVersion) -> VersionFacts:
    return VersionFacts(
        int(version.version), str(version.run_id), int(version.creation_timestamp), dict(version.tags or {})
    )
