"""Stores of a replay: a folder of its own, and a registry that is gone with its process."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sklearn.pipeline import Pipeline

from mlops_assets.operations.stores import Stores
from mlops_assets.stores.registry import AliasMove, Registry, VersionFacts


@dataclass(frozen=True)
class ReplayStores(Stores):
    """Stores in a folder, with the registry in memory: fitted pipelines are what a replay makes most of."""

    @cached_property
    def registry(self) -> Registry:
        return MemoryRegistry("memory:", "")


@dataclass(frozen=True)
class MemoryRegistry(Registry):
    """A registry that is gone with its process."""

    _pipelines: dict[int, Pipeline] = field(default_factory=dict)
    _tags: dict[int, dict[str, str]] = field(default_factory=dict)
    _aliases: dict[str, int] = field(default_factory=dict)

    def register(
        self, model: str, run_id: str, name: str, pipeline: Pipeline, trusted: tuple[str, ...], tags: dict[str, str]
    ) -> int:
        """Keep a fitted pipeline as the next version."""
        version = len(self._pipelines) + 1
        self._pipelines[version], self._tags[version] = pipeline, dict(tags)
        return version

    def load(self, model: str, version: int) -> Pipeline:
        return self._pipelines[version]

    def version(self, model: str, version: int) -> VersionFacts:
        return VersionFacts(version, "replay", 0, self._tags[version])

    def versions(self, model: str) -> tuple[VersionFacts, ...]:
        return tuple(self.version(model, version) for version in self._pipelines)

    def tag(self, model: str, version: int, key: str, value: str) -> None:
        self._tags[version][key] = value

    def log_folder(self, run_id: str, folder: Path, to: str) -> None:
        """Nothing is logged."""

    def move_alias(self, model: str, move: AliasMove) -> None:
        self._aliases[move.alias] = move.version
