"""Servable bundles by content hash, verified on reading.

A bundle is a folder of plain files named by the SHA-256 of its `manifest.json`, which holds the SHA-256 of every other
file. What is inside those files is the business of `core`.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mlops_assets.core.manifest import FORMAT, Manifest
from mlops_assets.stores.files import PLAIN_NAME, TEMPORARY, locked, make_folder, sync_folder, write_new

MANIFEST = "manifest.json"


class BundleError(RuntimeError):
    """A bundle that is missing, damaged, or cannot be written as given."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: `id` is "sha256:<64 hex>", `files` every file but the manifest, by name."""

    id: str
    manifest: Manifest
    files: dict[str, bytes]


class BundleStore:
    """Bundles under one folder, one folder each. Any number of processes may read and write it."""

    def __init__(self, root: Path):
        self.root = root

    def put(self, manifest: Manifest, files: Mapping[str, bytes]) -> str:
        """Store a bundle and return its id; the same content gives the same id and is stored once.

        `manifest.files` is filled in here. The bundle appears complete and on disk, or not at all; a damaged copy of it is
        replaced. Raises `BundleError` for a file name that is not a plain one and for a manifest that JSON cannot carry.
        """
        for name in files:
            _require_plain_name(name)
        hashes = {name: _sha256(content) for name, content in files.items()}
        return self._install(_encode(msgspec.structs.replace(manifest, files=hashes)), files)

    def get(self, bundle: str) -> Bundle:
        """Read a bundle and verify its id and every file. Raises `BundleError` naming what is wrong and the remedy."""
        folder = self.path(bundle)
        if not folder.is_dir():
            raise BundleError(f"bundle {bundle} is not in {self.root}: {_REMEDY}")
        return _read(folder, bundle)

    def path(self, bundle: str) -> Path:
        """The folder of a bundle, whether it is there or not. Raises `BundleError` for anything but "sha256:<64 hex>"."""
        if not _BUNDLE_ID.fullmatch(bundle):
            raise BundleError(f"{bundle!r} is not a bundle id: expected 'sha256:' and 64 hexadecimal digits")
        return self.root / bundle.removeprefix("sha256:")

    def __contains__(self, bundle: str) -> bool:
        """Whether the bundle is stored; only `get` tells whether it is also undamaged."""
        return bool(_BUNDLE_ID.fullmatch(bundle)) and self.path(bundle).is_dir()

    def add_folder(self, folder: Path) -> str:
        """Import a bundle from a folder, such as one carried inside a Bento, and return its id.

        The folder is verified against its own manifest first. Raises `BundleError` when it does not agree.
        """
        manifest = folder / MANIFEST
        if not manifest.is_file():
            raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}")
        encoded = manifest.read_bytes()
        return self._install(encoded, _read(folder, _sha256(encoded)).files)

    def _install(self, manifest: bytes, files: Mapping[str, bytes]) -> str:
        bundle = _sha256(manifest)
        destination = self.path(bundle)
        make_folder(self.root)
        with locked(self.root / ".lock"):
            # Only the holder of the lock writes, so whatever is half there was left by a process that died.
            for leftover in self.root.glob(f"{TEMPORARY}*"):
                shutil.rmtree(leftover)
            if _is_intact(destination, bundle):
                return bundle
            temporary = self.root / f"{TEMPORARY}{destination.name}"
            temporary.mkdir()
            try:
                for name, content in {**files, MANIFEST: manifest}.items():
                    write_new(temporary / name, content)
                sync_folder(temporary)
                if destination.exists():
                    os.rename(destination, self.root / f"{TEMPORARY}damaged-{destination.name}")
                os.rename(temporary, destination)
            except OSError:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            sync_folder(self.root)
            shutil.rmtree(self.root / f"{TEMPORARY}damaged-{destination.name}", ignore_errors=True)
        return bundle


_BUNDLE_ID = re.compile("sha256:[0-9a-f]{64}")
_REMEDY = "store it again from the Bento or the MLflow run that carries it, or release another version"


class _Format(msgspec.Struct):
    format: int


def _read(folder: Path, bundle: str) -> Bundle:
    present = {entry.name for entry in os.scandir(folder)}
    if MANIFEST not in present:
        raise _damaged(folder, bundle, f"{MANIFEST} is missing")
    encoded = (folder / MANIFEST).read_bytes()
    if _sha256(encoded) != bundle:
        raise _damaged(folder, bundle, f"{MANIFEST} has the hash {_sha256(encoded)}")
    manifest = _decode(encoded, folder)
    if missing := sorted(manifest.files.keys() - present):
        raise _damaged(folder, bundle, f"missing {', '.join(missing)}")
    if extra := sorted(present - manifest.files.keys() - {MANIFEST}):
        raise _damaged(folder, bundle, f"{', '.join(extra)} does not belong to it")
    files = {}
    for name, expected in manifest.files.items():
        _require_plain_name(name)
        if not (folder / name).is_file():
            raise _damaged(folder, bundle, f"{name} is not a file")
        files[name] = (folder / name).read_bytes()
        if _sha256(files[name]) != expected:
            raise _damaged(folder, bundle, f"{name} has the hash {_sha256(files[name])}, expected {expected}")
    return Bundle(bundle, manifest, files)


def _is_intact(folder: Path, bundle: str) -> bool:
    if not folder.is_dir():
        return False
    try:
        _read(folder, bundle)
    except BundleError:
        return False
    return True


def _encode(manifest: Manifest) -> bytes:
    encoded = msgspec.json.encode(manifest, order="deterministic")
    # JSON has no NaN or infinity, and msgspec writes null for them: say so now, not when the bundle is to be served.
    if _decode(encoded, Path(MANIFEST)) != manifest:
        raise BundleError(
            f"{MANIFEST} of {manifest.model} version {manifest.version} reads back differently than written"
        )
    return encoded


def _decode(encoded: bytes, source: Path) -> Manifest:
    try:
        found = msgspec.json.decode(encoded, type=_Format).format
        if found != FORMAT:
            raise BundleError(
                f"{source}: bundle format {found}, this program reads {FORMAT}: install the matching release"
            )
        return msgspec.json.decode(encoded, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{source}: {MANIFEST} is not valid: {error}") from error


def _require_plain_name(name: str) -> None:
    if name == MANIFEST or not PLAIN_NAME.fullmatch(name):
        raise BundleError(f"{name!r} cannot be a file of a bundle: expected a plain file name other than {MANIFEST}")


def _damaged(folder: Path, bundle: str, what: str) -> BundleError:
    return BundleError(f"bundle {bundle} in {folder} is damaged: {what}. {_REMEDY.capitalize()}")


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
