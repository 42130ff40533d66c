"""Reading the history of a model as its declaration names it: a loader function, or a Parquet or CSV table."""

import zipfile
import zlib
from collections.abc import Callable

import fsspec
import pandas as pd

from mlops_assets.core.spec import SourceSpec, import_object
from mlops_assets.sources.errors import SourceError


def read_source(source: SourceSpec) -> pd.DataFrame:
    """The whole table as it stands, in memory.

    Raises
    ------
    SourceError
        When the table is missing, empty, out of reach, unreadable or of an unknown kind, or when a loader returns no DataFrame.
    """
    if source.table is not None:
        return _read_table(source.table)
    assert source.loader is not None
    frame = import_object(source.loader)(**source.arguments)
    if not isinstance(frame, pd.DataFrame):
        raise SourceError(f"loader {source.loader} returned {type(frame).__name__}: it must return a pandas DataFrame")
    return frame


def _read_table(url: str) -> pd.DataFrame:
    readers: dict[str, Callable[[str], pd.DataFrame]] = {
        ".parquet": pd.read_parquet,
        ".csv": _read_csv,
        ".csv.gz": _read_csv,
        ".csv.zip": _read_csv,
    }
    reader = next((reader for ending, reader in readers.items() if url.lower().endswith(ending)), None)
    if reader is None:
        raise SourceError(f"{url}: unknown kind of table; the name must end in {', '.join(readers)}")
    try:
        files, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise SourceError(f"{url}: no store for such an address: {error}") from error
    if not files.exists(path):
        raise SourceError(f"{url}: no such table; correct source.table, or put the file there")
    if files.size(path) == 0:
        raise SourceError(f"{url}: the file is empty (0 bytes); restore it from its source")
    try:
        return reader(url)
    except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise SourceError(f"{url}: cannot be read as a table: {error}") from error


def _read_csv(url: str) -> pd.DataFrame:
    return pd.read_csv(url, low_memory=False)
