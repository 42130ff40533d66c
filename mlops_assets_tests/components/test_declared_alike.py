"""Dagster and the command line read one declaration as the same model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox

from mlops_assets.components.model_lifecycle import ModelLifecycle
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.models import COMPONENT, declared_models
from mlops_assets_tests.core.examples import declaration


@contextmanager
def both(attributes: dict[str, object]) -> Iterator[tuple[ModelSpec, ModelSpec]]:
    """The model as Dagster reads it, and as the command line does."""
    with create_defs_folder_sandbox() as sandbox:
        folder: Path = sandbox.defs_folder_path / "delay"
        folder.mkdir()
        (folder / "defs.yaml").write_text(yaml.safe_dump({"type": COMPONENT, "attributes": attributes}))
        with sandbox.load_component_and_build_defs(defs_path=folder) as (component, _):
            assert isinstance(component, ModelLifecycle)
            yield component.spec, declared_models(folder)["delay"]


def test_templates_are_filled_in_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLIGHTS", "/data")
    monkeypatch.delenv("ABSENT", raising=False)
    with both(
        declaration(source={"table": "{{ env.FLIGHTS }}/f.parquet"}, description="{{ env('ABSENT', 'none') }}")
    ) as (dagster, command_line):
        assert dagster == command_line
        assert (dagster.source.table, dagster.description) == ("/data/f.parquet", "none")


def test_text_that_looks_like_a_number_is_read_alike() -> None:
    """Dagster's own templates once made numbers of declared classes."""
    with both(declaration(label={"column": "late", "delay": "2h", "classes": ["0", "1"]}, gates=[])) as (
        dagster,
        command_line,
    ):
        assert dagster.label.classes == command_line.label.classes == ("0", "1")
