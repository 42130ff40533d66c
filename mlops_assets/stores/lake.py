"""Tables and small JSON documents of each model: the latest output of every asset, in a folder or an object store.

What is written replaces what was there, whole or not at all; history is the business of the registry, the bundles and the log.
"""

import json
import os
import posixpath
import uuid
from typing import Any

import fsspec
import msgspec
import numpy as np
import pandas as pd
from fsspec.implementations.local import LocalFileSystem


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
        """Read a frame with its `attrs`; FileNotFoundError says which asset has to run first."""
        with self._open(model, f"{name}.parquet", name) as file:
            return pd.read_parquet(file)

    def write_document(self, model: str, name: str, document: Any) -> str:
        """Write a value that msgspec can turn into JSON, NaN and infinity as Python's `json` writes them. Returns the path."""
        path = self._path(model, f"{name}.json")
        plain = msgspec.to_builtins(document, str_keys=True)
        self._replace(path, json.dumps(plain, indent=2, ensure_ascii=False).encode())
        return path

    def read_document(self, model: str, name: str, kind: type[Any]) -> Any:
        """Read a JSON document as `kind`; FileNotFoundError says which asset has to run first."""
        with self._open(model, f"{name}.json", name) as file:
            return msgspec.convert(json.loads(file.read()), kind, str_keys=True)

    def has(self, model: str, name: str) -> bool:
        return any(self._files.exists(self._path(model, f"{name}.{ending}")) for ending in ("parquet", "json"))

    def _path(self, model: str, file: str) -> str:
        return posixpath.join(self._root, model, file)

    def _open(self, model: str, file: str, name: str) -> Any:
        path = self._path(model, file)
        if not self._files.exists(path):
            raise FileNotFoundError(f"{path} does not exist: materialise {model}/{name} first")
        return self._files.open(path, "rb")

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


def _one_type(column: "pd.Series[Any]") -> "pd.Series[Any]":
    kinds = {type(value) for value in column[column.notna()]}
    if len(kinds) <= 1:
        return column
    if all(issubclass(kind, int | float | np.number | np.bool_) for kind in kinds):
        return column.astype(float)
    return column.map(_text, na_action="ignore")


def _text(value: object) -> str:
    return json.dumps(value, default=str) if isinstance(value, list | dict | tuple) else str(value)
