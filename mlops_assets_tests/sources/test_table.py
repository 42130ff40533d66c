from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest

from mlops_assets.core.spec import SourceSpec
from mlops_assets.sources.errors import SourceError
from mlops_assets.sources.table import read_source

FRAME = pd.DataFrame({"flight": ["F1", "F2"], "temp": [1.5, None], "at": ["2024-01-01T00:00:00Z"] * 2})


def read(path: object) -> pd.DataFrame:
    return read_source(SourceSpec(table=str(path)))


def write(path: Path) -> Path:
    if path.name.endswith("parquet"):
        FRAME.to_parquet(path)
    else:
        FRAME.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.csv.gz", "t.csv.zip", "T.CSV"])
def test_a_table_reads_back(tmp_path: Path, name: str) -> None:
    read_back = read(write(tmp_path / name))
    pd.testing.assert_frame_equal(read_back, FRAME, check_dtype=False)


def test_a_table_is_read_from_any_store() -> None:
    url = "memory://tables/flights.csv"
    with fsspec.open(url, "w") as file:
        FRAME.to_csv(file, index=False)
    assert read(url)["flight"].tolist() == ["F1", "F2"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.parquet", b"PAR1 and no more", "cannot be read as a table"),
        ("t.csv", b'a,b\n1,"2\n', "cannot be read as a table"),
        ("t.csv", b"a\n1,2\n3,4,5\n", "cannot be read as a table"),
        ("t.csv", b"a\n\xff\xfe\n", "cannot be read as a table"),
        ("t.csv", b"\n\n", "cannot be read as a table"),
        ("t.csv.gz", b"no gzip", "cannot be read as a table"),
        ("t.csv.zip", b"no zip", "cannot be read as a table"),
        ("t.csv", b"", r"the file is empty \(0 bytes\)"),
        ("t.xlsx", b"x", "unknown kind of table; the name must end in .parquet, .csv"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=said) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv.zip", "t.parquet"])
def test_a_table_that_is_cut_off_is_named(tmp_path: Path, name: str) -> None:
    """A damaged archive once ended the run with an error that named no file."""
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(SourceError, match="cannot be read as a table"):
        read(path)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.csv: no such table; correct source\.table"):
        read(tmp_path / "nowhere.csv")


def test_an_address_that_no_store_answers_is_named() -> None:
    with pytest.raises(SourceError, match=r"ftpx://host/t\.csv: no store for such an address"):
        read("ftpx://host/t.csv")


def load(rows: int = 1, kind: str = "frame") -> Any:
    return FRAME.head(rows) if kind == "frame" else [rows]


def test_a_loader_is_called_with_its_arguments() -> None:
    assert len(read_source(SourceSpec(loader=f"{__name__}.load", arguments={"rows": 2}))) == 2


def test_a_loader_must_return_a_frame() -> None:
    with pytest.raises(SourceError, match=r"test_table\.load returned list: it must return a pandas DataFrame"):
        read_source(SourceSpec(loader=f"{__name__}.load", arguments={"kind": "list"}))
