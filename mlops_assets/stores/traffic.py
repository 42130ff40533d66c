"""One model's ingested traffic in the lake: parts by window, what each window consists of, and which log segments are in it.

A part is named by its own content, so that writing it twice leaves one, and names alone tell whether anything has changed. What the
columns mean is the business of `core`; what becomes a part, and when, that of `operations`.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal, TypeVar

import msgspec
import pyarrow as pa

from mlops_assets.stores.lake import Lake, encode_table

Kind = Literal["predictions", "labels", "metrics"]
EMPTY = "empty"
_D = TypeVar("_D")


class WindowContent(msgspec.Struct, frozen=True):
    """What a window consists of: a hash over the names of its parts, and whether any of them holds predictions."""

    content: str
    predictions: bool


class TrafficStore:
    """Parts of predictions, labels and business metrics by window; labels without a window yet; what cannot be read."""

    def __init__(self, lake: Lake, model: str):
        self._lake = lake
        self._model = model

    def write_part(self, kind: Kind, window: str, source: str, table: pa.Table) -> None:
        """Add rows to a window. `source` names the segment they come from, for whoever looks for it."""
        self._write(f"{kind}/{window}", source, table)

    def parts(self, kind: Kind, window: str) -> tuple[str, ...]:
        """Names of the parts of a window."""
        return self._lake.tables(self._model, f"{_ROOT}/{kind}/{window}")

    def read_part(self, kind: Kind, window: str, part: str, columns: Iterable[str] | None = None) -> pa.Table:
        """One part, or some of its columns."""
        return self._read(f"{kind}/{window}", part, columns)

    def content(self, window: str) -> WindowContent:
        """What a window consists of, as its parts lie there now."""
        return content_of(self.parts("predictions", window), self.parts("labels", window))

    def contents(self) -> dict[str, WindowContent]:
        """What every window consists of, as far as `update_contents` has been told."""
        return self._document("contents", dict[str, WindowContent]) or {}

    def update_contents(self, windows: Iterable[str]) -> None:
        """Look again at the parts of these windows."""
        fresh = {window: self.content(window) for window in windows}
        known = self.contents()
        if any(known.get(window) != content for window, content in fresh.items()):
            self._lake.write_document(self._model, f"{_ROOT}/contents", dict(sorted((known | fresh).items())))

    def write_unplaced(self, source: str, table: pa.Table) -> str:
        """Keep labels whose predictions are not known yet. Returns the name under which they lie."""
        return self._write("unplaced", source, table)

    def unplaced(self) -> Mapping[str, pa.Table]:
        """Labels whose predictions are not known yet, by the name under which they lie."""
        names = self._lake.tables(self._model, f"{_ROOT}/unplaced")
        return {name: self._read("unplaced", name) for name in names}

    def remove_unplaced(self, names: Iterable[str]) -> None:
        for name in names:
            self._lake.remove_table(self._model, f"{_ROOT}/unplaced/{name}")

    def write_quarantine(self, source: str, table: pa.Table) -> None:
        """Keep what cannot be read or belongs to no window, with its bytes and the reason."""
        self._write("quarantine", source, table)

    def quarantine(self) -> Iterable[pa.Table]:
        """What was kept by `write_quarantine`, a table for each segment, oldest segment first."""
        for name in self._lake.tables(self._model, f"{_ROOT}/quarantine"):
            yield self._read("quarantine", name)

    def ingested(self) -> frozenset[str]:
        """Names of the log segments of which everything is here."""
        return frozenset(self._document("ingested", list[str]) or ())

    def mark_ingested(self, segments: Iterable[str]) -> None:
        """Replace the names of the log segments of which everything is here."""
        self._lake.write_document(self._model, f"{_ROOT}/ingested", sorted(segments))

    def _write(self, folder: str, source: str, table: pa.Table) -> str:
        data = encode_table(table)
        name = f"{source}-{hashlib.sha256(data).hexdigest()[:16]}"
        if not self._lake.has(self._model, f"{_ROOT}/{folder}/{name}"):
            self._lake.write_bytes(self._model, f"{_ROOT}/{folder}/{name}", data)
        return name

    def _read(self, folder: str, name: str, columns: Iterable[str] | None = None) -> pa.Table:
        return self._lake.read_arrow(
            self._model, f"{_ROOT}/{folder}/{name}", None if columns is None else list(columns)
        )

    def _document(self, name: str, kind: type[_D]) -> _D | None:
        path = f"{_ROOT}/{name}"
        if not self._lake.has(self._model, path):
            return None
        document: _D = self._lake.read_document(self._model, path, kind)
        return document


def content_of(predictions: Iterable[str], labels: Iterable[str]) -> WindowContent:
    """What a window of these parts consists of."""
    predictions, labels = tuple(sorted(predictions)), tuple(sorted(labels))
    if not predictions and not labels:
        return WindowContent(EMPTY, predictions=False)
    text = "\n".join([_LAYOUT, *predictions, "", *labels])
    return WindowContent(hashlib.sha256(text.encode()).hexdigest()[:32], predictions=bool(predictions))


_ROOT = "traffic"
_LAYOUT = "1"  # another number makes every window be compacted again
