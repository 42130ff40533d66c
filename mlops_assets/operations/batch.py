"""Scoring a whole table: a table in, a table of answers out, by the model in service, in bounded memory.

What is answered is what the service would answer by the release plan of that moment. The answers appear whole or not at all.
"""

import hashlib
import os
import posixpath
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import fsspec
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from mlops_assets.core.batch import Answerer, TableScorer
from mlops_assets.core.rollout import Release, ReleasePlan
from mlops_assets.core.schema import REASON
from mlops_assets.core.scoring.degraded import CannotDegrade, constant_output, require_maskable
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.spec.batch import OUTPUT_ENDINGS
from mlops_assets.operations.models import how_to_begin
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.whole_bundles import prove
from mlops_assets.sources.parts import TableInParts
from mlops_assets.stores.bundles import BundleError
from mlops_assets.stores.files import TEMPORARY, locked, make_folder, sync_folder

PART_ROWS = 65_536
_REASONS = 20
_KEPT_REASONS = 1_000


class BatchRefused(ValueError):
    """A table cannot be scored; nothing was written."""


@dataclass(frozen=True)
class Batch:
    """A table that was scored: `rows` in it are `scored` and `quarantined` ones.

    Attributes
    ----------
    reasons
        The most frequent reasons why rows were quarantined, with their rows.
    release
        The release whose champion answered; None for a version that was asked for by its number.
    role
        `champion`, or `fallback` where the plan's constant was the answer; None for a version asked for by its number.
    """

    rows: int
    scored: int
    quarantined: int
    reasons: tuple[tuple[str, int], ...]
    seconds: float
    version: int
    release: int | None
    role: str | None
    masked: tuple[str, ...]
    output: str
    quarantine: str

    @property
    def quarantined_share(self) -> float:
        return self.quarantined / self.rows if self.rows else 0.0

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0


def score_table(
    spec: ModelSpec, stores: Stores, source: str, output: str, *, version: int | None = None, part_rows: int = PART_ROWS
) -> Batch:
    """Score a table.

    Parameters
    ----------
    source, output
        Parquet or CSV files behind paths or fsspec URLs. What cannot be scored goes to `quarantine_path(output)` with its reasons.
    version
        A registered version, whether in service or not; left out: whatever the release plan says.
    part_rows
        Rows in memory at a time. The answers do not depend on it.

    Raises
    ------
    BatchRefused
        When nobody can answer, the table lacks a column, or the output is no path that can be written.
    SourceError
        When the table is missing or cannot be read. Then the former output, if any, is still there.
    """
    _require_output(source, output)
    answerer = _answerer(spec, stores, version)
    started = time.perf_counter()
    rows, scored, reasons = 0, 0, Counter[str]()
    table = TableInParts(source)
    try:
        scorer = TableScorer(spec, answerer, table.columns)
    except ValueError as error:
        raise BatchRefused(f"{source}: {error}") from error
    with (
        _alone(stores, output),
        _WholeTable(output, scorer.answer_schema) as answers,
        _WholeTable(quarantine_path(output), scorer.quarantine_schema) as quarantine,
    ):
        for frame in table.parts(scorer.needed, part_rows):
            part = scorer.score(frame, rows)
            answers.write(part.answers)
            quarantine.write(part.quarantine)
            if len(part.answers) + len(part.quarantine) != len(frame):
                raise AssertionError(f"{source}: rows from {rows} on are neither answered nor quarantined")
            rows += len(frame)
            scored += len(part.answers)
            reasons.update(part.quarantine[REASON].to_pylist())
            if len(reasons) > _KEPT_REASONS:  # those of a model that refuses values name the value
                reasons = Counter(dict(reasons.most_common(_REASONS)))
        # Whoever finds the answers finds what was left out of them.
        quarantine.publish()
        answers.publish()
    return Batch(
        rows=rows,
        scored=scored,
        quarantined=rows - scored,
        reasons=tuple(reasons.most_common(_REASONS)),
        seconds=time.perf_counter() - started,
        version=answerer.manifest.version,
        release=answerer.release,
        role=answerer.role,
        masked=answerer.masked,
        output=output,
        quarantine=quarantine_path(output),
    )


def quarantine_path(output: str) -> str:
    """Where the rows without an answer go: beside the answers."""
    stem, ending = output.rsplit(".", 1)
    return f"{stem}.quarantine.{ending}"


def _require_output(source: str, output: str) -> None:
    if not output.lower().endswith(OUTPUT_ENDINGS):
        raise BatchRefused(f"{output}: unknown kind of table; the name must end in {' or '.join(OUTPUT_ENDINGS)}")
    if source in (output, quarantine_path(output)):
        raise BatchRefused(f"{output}: the answers would replace the table that is to be scored; choose another name")


def _answerer(spec: ModelSpec, stores: Stores, version: int | None) -> Answerer:
    plan = stores.releases.current(spec.name)
    if plan is None and version is None:
        raise BatchRefused(f"no release of {spec.name!r}: {how_to_begin(spec.name)}, or name a version")
    if version is None and plan is not None and plan.retired is not None:
        raise BatchRefused(f"model {spec.name!r} is out of service ({plan.retired}): recover it, or name a version")
    try:
        proven = prove(stores, spec.name, _release(spec, stores, plan, version))
        manifest = proven.manifest
        masked = () if plan is None else tuple(name for name in plan.masked if name in proven.features)
        if masked:
            require_maskable(manifest, proven.scorer, masked, proven.golden.rows)
        fallen_back = plan is not None and plan.fallen_back and version is None
        constant = constant_output(manifest, plan.fallback_value) if fallen_back and plan is not None else None
    except (BundleError, CannotDegrade) as error:
        raise BatchRefused(str(error)) from error
    release = None if plan is None or version is not None else plan.release
    return Answerer(manifest, proven.scorer, release, masked, constant)


def _release(spec: ModelSpec, stores: Stores, plan: ReleasePlan | None, version: int | None) -> Release:
    if plan is not None and version in (None, plan.champion.version):
        return plan.champion
    registered = {facts.version: facts.tags.get("bundle") for facts in stores.registry.versions(spec.name)}
    bundle = None if version is None else registered.get(version)
    if version is None or bundle is None:
        choice = ", ".join(str(number) for number, there in registered.items() if there) or "none"
        raise BatchRefused(f"model {spec.name!r} has no version {version} with a bundle; registered are {choice}")
    return Release(version, bundle)


@contextmanager
def _alone(stores: Stores, output: str) -> Iterator[None]:
    """Nobody else writes this output from this home."""
    make_folder(stores.home.root)
    with locked(stores.home.root / f".batch-{hashlib.sha256(output.encode()).hexdigest()[:16]}.lock"):
        yield


class _WholeTable:
    """A Parquet or CSV file that is written under a temporary name, and under its own when it is whole.

    What a process that died has left under the temporary name is written over by the next.
    """

    def __init__(self, url: str, schema: pa.Schema) -> None:
        self._files, self._path = fsspec.core.url_to_fs(url)
        folder, name = posixpath.split(self._path)
        self._temporary = posixpath.join(folder, f"{TEMPORARY}{name}")
        self._files.makedirs(folder, exist_ok=True)
        self._is_csv = url.lower().endswith(".csv")
        self._schema = schema

    def __enter__(self) -> Self:
        self._file: IO[bytes] = self._files.open(self._temporary, "wb")
        if self._is_csv:
            self._writer = pa_csv.CSVWriter(self._file, self._schema)
        else:
            self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            with suppress(OSError, pa.ArrowException):  # what went wrong before says why
                self._writer.close()
            with suppress(OSError):
                self._file.close()
        if self._files.exists(self._temporary):
            self._files.rm_file(self._temporary)

    def write(self, table: pa.Table) -> None:
        if len(table):
            self._writer.write_table(table)

    def publish(self) -> None:
        """Give the file its name, in one step."""
        self._writer.close()
        self._file.close()
        if not isinstance(self._files, LocalFileSystem):
            self._files.mv(self._temporary, self._path)
            return
        with open(self._temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(self._temporary, self._path)
        sync_folder(Path(self._path).parent)
