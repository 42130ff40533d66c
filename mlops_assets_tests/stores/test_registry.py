"""Folders that were logged to a run: fetched, known not to be there, or out of reach."""

import shutil
from pathlib import Path

import pytest

from mlops_assets.stores.registry import Registry

LOGGED = "bundles/abc"


def test_what_a_run_has_not_is_told_from_what_is_out_of_reach(tmp_path: Path):
    registry = Registry.local(tmp_path / "mlflow")
    run = registry.client.create_run(registry.experiment("delay")).info.run_id
    folder, fetched = tmp_path / "abc", tmp_path / "fetched"
    folder.mkdir()
    fetched.mkdir()
    (folder / "manifest.json").write_text("{}")
    registry.log_folder(run, folder, LOGGED)
    assert (registry.fetch_folder(run, LOGGED, fetched) / "manifest.json").read_text() == "{}"
    with pytest.raises(FileNotFoundError, match="has no folder bundles/other"):
        registry.fetch_folder(run, "bundles/other", fetched)

    (tmp_path / "unwritable").write_text("a file")
    with pytest.raises(OSError, match="cannot be fetched") as unwritten:
        registry.fetch_folder(run, LOGGED, tmp_path / "unwritable")
    artifacts = tmp_path / "mlflow" / "artifacts"
    shutil.rmtree(artifacts)
    artifacts.mkdir()
    with pytest.raises(OSError, match=f"no file of run {run} is to be found") as unmounted:
        registry.fetch_folder(run, LOGGED, fetched)
    with pytest.raises(OSError, match="it cannot be told whether run nobody has") as unknown:
        registry.fetch_folder("nobody", LOGGED, fetched)
    assert not any(isinstance(one.value, FileNotFoundError) for one in (unwritten, unmounted, unknown))
