"""Tables and small JSON documents of each model: the latest output of every asset, in a folder or an object store.

What is written replaces what was there, whole or not at all; history is the business of the registry, the bundles and the log.
"""

import json
import os
import posixpath
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import fsspec
import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from pyarrow import ArrowInvalid


class Lake:
    """Parquet tables and JSON documents by model and name, below a folder or an fsspec URL."""

    def __init__(self, url: str) -> None:
        self._files, self._root = fsspec.core.url_to_fs(url)

    def write_table(self, model: str, name: str, frame: pd.DataFrame) -> str:
        """Write a frame with its `attrs`. Returns the path.

        Columns of mixed types are written as text, those that mix numbers with true and false as numbers; names become text.

        Raises
        ------
        ValueError
            When two columns have the same name.
        """
        path = self._path(model, f"{name}.parquet")
        table = frame.set_axis(frame.columns.map(str), axis="columns")
        table.attrs = dict(frame.attrs)
        if not table.columns.is_unique:
            twice = sorted(set(table.columns[table.columns.duplicated()]))
            raise ValueError(
                f"{model}/{name}: columns {', '.join(map(repr, twice))} are there twice; rename one of each"
            )
        for column in table.select_dtypes(object):
            table[column] = _one_type(table[column])
        data = table.to_parquet(index=False, compression="zstd")
        self._replace(path, data)
        return path

    def read_table(self, model: str, name: str) -> pd.DataFrame:
        """Read a frame with its `attrs`.

        Raises
        ------
        FileNotFoundError, ValueError
            When it is not there or damaged, saying which asset has to run.
        """
        with self._open(model, f"{name}.parquet", name) as file:
            try:
                return pd.read_parquet(file)
            except ArrowInvalid as error:
                raise ValueError(self._unreadable(model, f"{name}.parquet", name, error)) from error

    def write_arrow(self, model: str, name: str, table: pa.Table, attrs: Mapping[str, Any] | None = None) -> str:
        """Write a table as it is, with `attrs` that `read_table` and `read_attrs` give back. Returns the path."""
        path = self._path(model, f"{name}.parquet")
        self._replace(path, encode_table(table, attrs))
        return path

    def write_bytes(self, model: str, name: str, data: bytes) -> str:
        """Write a table that `encode_table` has encoded. Returns the path."""
        path = self._path(model, f"{name}.parquet")
        self._replace(path, data)
        return path

    def read_arrow(self, model: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a table, or some of its columns; FileNotFoundError says which asset has to run first."""
        with self._open(model, f"{name}.parquet", name) as file:
            return pq.ParquetFile(file).read(None if columns is None else list(columns))

    def batches(self, model: str, name: str, columns: Sequence[str], rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """Some columns of a table, so many rows at a time, text as dictionaries; one that the table lacks is null.

        FileNotFoundError says which asset has to run first.
        """
        with self._open(model, f"{name}.parquet", name) as file:
            schema = pq.read_schema(file)
            present = [column for column in columns if column in schema.names]
            text = [column for column in present if pa.types.is_string(schema.field(column).type)]
            for batch in pq.ParquetFile(file, read_dictionary=text).iter_batches(rows, columns=present):
                arrays = [
                    batch.column(column) if column in present else pa.nulls(batch.num_rows, pa.float64())
                    for column in columns
                ]
                yield pa.RecordBatch.from_arrays(arrays, names=list(columns))

    def read_attrs(self, model: str, name: str) -> dict[str, Any]:
        """The `attrs` that a table carries, without reading its rows; FileNotFoundError as `read_table`."""
        with self._open(model, f"{name}.parquet", name) as file:
            metadata = pq.read_schema(file).metadata or {}
        attrs: dict[str, Any] = json.loads(metadata.get(_ATTRS, b"{}"))
        return attrs

    def tables(self, model: str, folder: str) -> tuple[str, ...]:
        """Names of the tables in a folder of a model, without the folder, sorted."""
        return tuple(sorted(self._tables(model, folder, detail=False)))

    def stamps(self, model: str, folder: str) -> dict[str, str]:
        """A text for each table in a folder of a model that is another one once the table has been written again."""
        listed = self._tables(model, folder, detail=True)
        return {name: repr(sorted(info.items())) for name, info in listed.items()}

    def remove_table(self, model: str, name: str) -> None:
        """Remove a table; one that is not there is no error."""
        path = self._path(model, f"{name}.parquet")
        if self._files.exists(path):
            self._files.rm_file(path)

    def table_path(self, model: str, name: str) -> str:
        """Where a table lies, or would."""
        return self._path(model, f"{name}.parquet")

    def write_document(self, model: str, name: str, document: Any) -> str:
        """Write a value that msgspec can turn into JSON, NaN and infinity as Python's `json` writes them. Returns the path."""
        path = self._path(model, f"{name}.json")
        plain = msgspec.to_builtins(document, str_keys=True)
        self._replace(path, json.dumps(plain, indent=2, ensure_ascii=False).encode())
        return path

    def read_document(self, model: str, name: str, kind: type[Any]) -> Any:
        """Read a JSON document as `kind`.

        Raises
        ------
        FileNotFoundError, ValueError
            When it is not there, damaged, or of another form, saying which asset has to run.
        """
        with self._open(model, f"{name}.json", name) as file:
            try:
                return msgspec.convert(json.loads(file.read()), kind, str_keys=True)
            except (json.JSONDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
                raise ValueError(self._unreadable(model, f"{name}.json", name, error)) from error

    def has(self, model: str, name: str) -> bool:
        return any(self._files.exists(self._path(model, f"{name}.{ending}")) for ending in ("parquet", "json"))

    def _tables(self, model: str, folder: str, detail: bool) -> dict[str, Any]:
        listed = self._list(self._path(model, folder), detail)
        paths = {(one["name"] if detail else one): one for one in listed}
        return {
            posixpath.basename(path).removesuffix(".parquet"): one for path, one in paths.items() if _is_table(path)
        }

    def _list(self, path: str, detail: bool) -> Any:
        try:
            return self._files.ls(path, detail=detail, refresh=True)
        except FileNotFoundError:
            return []

    def _path(self, model: str, file: str) -> str:
        return posixpath.join(self._root, model, file)

    def _open(self, model: str, file: str, name: str) -> Any:
        path = self._path(model, file)
        if not self._files.exists(path):
            raise FileNotFoundError(f"{path} does not exist: materialise {model}/{name} first")
        return self._files.open(path, "rb")

    def _unreadable(self, model: str, file: str, name: str, error: Exception) -> str:
        return f"{self._path(model, file)} cannot be read ({error}): materialise {model}/{name} again"

    def _replace(self, path: str, data: bytes) -> None:
        self._files.makedirs(posixpath.dirname(path), exist_ok=True)
        if not isinstance(self._files, LocalFileSystem):
            self._files.pipe_file(path, data)  # an object appears when its upload is complete
            return
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)


def encode_table(table: pa.Table, attrs: Mapping[str, Any] | None = None) -> bytes:
    """A table as zstd Parquet; the same table gives the same bytes. Text is encoded by dictionary, numbers are not."""
    metadata = {} if attrs is None else {_ATTRS: json.dumps(attrs).encode()}
    buffer = pa.BufferOutputStream()
    text = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(
        table.replace_schema_metadata(metadata),
        buffer,
        compression="zstd",
        use_dictionary=text,
        row_group_size=ROW_GROUP,
    )
    data: bytes = buffer.getvalue().to_pybytes()
    return data


ROW_GROUP = 128 * 1024
_ATTRS = b"PANDAS_ATTRS"  # where pandas keeps the `attrs` of a frame in a Parquet file


def _is_table(path: str) -> bool:
    return path.endswith(".parquet")


def _one_type(column: "pd.Series[Any]") -> "pd.Series[Any]":
    kinds = {type(value) for value in column[column.notna()]}
    if len(kinds) <= 1:
        return column
    if all(issubclass(kind, int | float | np.number | np.bool_) for kind in kinds):
        return column.astype(float)
    return column.map(_text, na_action="ignore")


def _text(value: object) -> str:
    return json.dumps(value, default=str) if isinstance(value, list | dict | tuple) else str(value)
