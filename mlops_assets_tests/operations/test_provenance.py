from pathlib import Path

from mlops_assets.operations import provenance


def test_the_code_version_names_version_and_state():
    version = provenance.code_version()
    assert version.startswith("0.1.0+")
    assert version.split("+")[1][0] in "gs"


def test_the_source_hash_changes_with_the_source(tmp_path: Path):
    (tmp_path / "a.py").write_text("x = 1")
    first = provenance._source_hash(tmp_path)
    assert provenance._source_hash(tmp_path) == first
    (tmp_path / "a.py").write_text("x = 2")
    assert provenance._source_hash(tmp_path) != first


def test_libraries_are_named_with_versions():
    assert set(provenance.libraries()) >= {"scikit-learn", "numpy", "pandas", "mlflow"}
