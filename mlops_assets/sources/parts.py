"""Reading a table that need not fit into memory: a Parquet or CSV file, so many rows at a time."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from mlops_assets.sources.errors import SourceError

_COMPRESSION = {".csv": None, ".csv.gz": "gzip", ".csv.zip": "zip"}
_UNREADABLE = (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile, pa.ArrowException)
_BLOCK_BYTES = 4 * 2**20
# What pandas takes for missing, so that a CSV file says the same here and to a training.
_MISSING = [
    "",
    "#N/A",
    "#N/A N/A",
    "#NA",
    "-1.#IND",
    "-1.#QNAN",
    "-NaN",
    "-nan",
    "1.#IND",
    "1.#QNAN",
    "<NA>",
    "N/A",
    "NA",
]
_MISSING += ["NULL", "NaN", "None", "n/a", "nan", "null"]


class TableInParts:
    """A Parquet or CSV table behind a path or fsspec URL.

    Attributes
    ----------
    columns
        Names of the columns, in their order; a name may be there twice.

    Raises
    ------
    SourceError
        When it is missing, empty, out of reach, unreadable or of an unknown kind.
    """

    def __init__(self, url: str) -> None:
        self._url, self._name = url, url.lower()
        self._require_there()
        try:
            if self._name.endswith(".parquet"):
                with fsspec.open(url, "rb") as file:
                    self.columns = tuple(pq.read_schema(file).names)
            else:
                self.columns = tuple(name for frame in self._csv(()) for name in frame)
        except _UNREADABLE as error:
            raise self._broken(error) from error

    def parts(self, columns: Sequence[str], rows: int) -> Iterator[pd.DataFrame]:
        """Some columns of the table, at most so many rows at a time; all that a CSV file holds is text.

        Raises
        ------
        SourceError
            When what comes next cannot be read.
        """
        parts = self._parquet(columns, rows) if self._name.endswith(".parquet") else self._csv(columns)
        try:
            for part in parts:
                for first in range(0, len(part), rows):
                    yield part[first : first + rows]
        except _UNREADABLE as error:
            raise self._broken(error) from error

    def _parquet(self, columns: Sequence[str], rows: int) -> Iterator[pd.DataFrame]:
        with fsspec.open(self._url, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(rows, columns=list(columns)):
                frame = batch.to_pandas()
                for name in frame.select_dtypes("category"):
                    frame[name] = frame[name].astype(object)
                yield frame

    def _csv(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Without columns: one empty frame that has them all."""
        compression = next(kind for ending, kind in reversed(_COMPRESSION.items()) if self._name.endswith(ending))
        with fsspec.open(self._url, "rb", compression=compression) as file:
            reader = pa_csv.open_csv(
                file,
                pa_csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
                pa_csv.ParseOptions(newlines_in_values=True),
                pa_csv.ConvertOptions(
                    null_values=_MISSING,
                    strings_can_be_null=True,
                    column_types=dict.fromkeys(columns, pa.string()),
                    include_columns=list(columns),
                ),
            )
            if not columns:
                yield pd.DataFrame(columns=reader.schema.names)
                return
            for batch in reader:
                yield batch.to_pandas()

    def _require_there(self) -> None:
        url, endings = self._url, (".parquet", *_COMPRESSION)
        if not self._name.endswith(endings):
            raise SourceError(f"{url}: unknown kind of table; the name must end in {', '.join(endings)}")
        try:
            files, path = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise SourceError(f"{url}: no store for such an address: {error}") from error
        if not files.exists(path):
            raise SourceError(f"{url}: no such table; correct the path, or put the file there")
        if files.size(path) == 0:
            raise SourceError(f"{url}: the file is empty (0 bytes); restore it from its source")

    def _broken(self, error: Exception) -> SourceError:
        return SourceError(f"{self._url}: cannot be read as a table: {error}")
