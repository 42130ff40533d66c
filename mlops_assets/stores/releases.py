"""Immutable release plans and the pointer to the current one; publishing is compare-and-swap.

One folder per model: a file per plan, `<release>.json`, and `current`, which names the plan in force by number and
SHA-256. A plan counts as published from the moment the pointer names it or a later one. What the next plan should be is
the business of `core/rollout`.
"""

import hashlib
import os
from pathlib import Path

import msgspec

from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.stores.files import PLAIN_NAME, TEMPORARY, locked, make_folder, write_whole


class ReleaseConflict(RuntimeError):
    """Another plan was published since the one that this plan follows."""


class ReleaseDamaged(RuntimeError):
    """A published plan or its pointer cannot be read back as written."""


class UnknownRelease(KeyError):
    """No such release of this model was published."""

    def __str__(self) -> str:
        return str(self.args[0])


class ReleaseStore:
    """Release plans of all models under one folder. Any number of processes may read and publish."""

    def __init__(self, root: Path):
        self.root = root

    def models(self) -> tuple[str, ...]:
        """The models with a release, by name."""
        return tuple(sorted(self._pointers()))

    def current(self, model: str) -> ReleasePlan | None:
        """The plan in force, None before the first. Raises `ReleaseDamaged`."""
        pointer = self._pointer(model)
        return None if pointer is None else self._read(model, pointer.release, pointer.sha256)

    def get(self, model: str, release: int) -> ReleasePlan:
        """A published plan. Raises `UnknownRelease` (a `KeyError`) and `ReleaseDamaged`."""
        pointer = self._pointer(model)
        latest = 0 if pointer is None else pointer.release
        if not 1 <= release <= latest:
            published = f"releases 1 to {latest} are" if latest else "no release is"
            raise UnknownRelease(f"{model} has no release {release}: {published} published in {self.root}")
        return self._read(model, release)

    def history(self, model: str) -> tuple[ReleasePlan, ...]:
        """All published plans, oldest first; empty before the first. Raises `ReleaseDamaged`."""
        pointer = self._pointer(model)
        return () if pointer is None else tuple(self._read(model, n) for n in range(1, pointer.release + 1))

    def publish(self, plan: ReleasePlan) -> None:
        """Make `plan` the current one, if `plan.previous` still is.

        When this returns the plan is on disk and every reader sees it; a crash on the way leaves the former plan in force, or
        the new one, never neither. Raises `ReleaseConflict` when another plan was published meanwhile, and `ValueError`
        for a plan that is not numbered `previous + 1` or that JSON cannot carry.
        """
        if plan.release != plan.previous + 1 or plan.previous < 0:
            raise ValueError(
                f"{plan.model}: release {plan.release} cannot follow {plan.previous}: number it previous + 1"
            )
        encoded = _encode(plan)
        folder = self._folder(plan.model)
        make_folder(folder)
        with locked(folder / ".lock"):
            pointer = self._pointer(plan.model)
            current = 0 if pointer is None else pointer.release
            if current != plan.previous:
                raise ReleaseConflict(
                    f"{plan.model}: release {plan.release} was to follow {plan.previous}, but the current one is {current}: "
                    "read it and decide again"
                )
            # Only the holder of the lock writes: leftovers, and a plan the pointer does not reach, are of a crash.
            for leftover in folder.glob(f"{TEMPORARY}*"):
                leftover.unlink()
            write_whole(self._file(plan.model, plan.release), encoded)
            write_whole(folder / _POINTER, msgspec.json.encode(_Pointer(plan.release, _sha256(encoded))))

    def stamp(self) -> object:
        """A token that differs whenever the current release of any model does; some 20 µs a model, no plan is read."""
        return self._pointers()

    def _pointers(self) -> dict[str, bytes]:
        if not self.root.is_dir():
            return {}
        pointers = {model: _content(f"{self.root}/{model}/{_POINTER}") for model in os.listdir(self.root)}
        return {model: pointer for model, pointer in pointers.items() if pointer is not None}

    def _pointer(self, model: str) -> "_Pointer | None":
        path = self._folder(model) / _POINTER
        if not path.exists():
            return None
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Pointer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ReleaseDamaged(f"{path} is not a release pointer ({error}): restore it from a backup") from error

    def _read(self, model: str, release: int, sha256: str | None = None) -> ReleasePlan:
        path = self._file(model, release)
        if not path.exists():
            raise ReleaseDamaged(f"{path} is missing though it was published: restore it from a backup")
        encoded = path.read_bytes()
        if sha256 is not None and _sha256(encoded) != sha256:
            raise ReleaseDamaged(
                f"{path} does not have the hash {sha256} it was published with: restore it from a backup"
            )
        try:
            plan = msgspec.json.decode(encoded, type=ReleasePlan)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ReleaseDamaged(f"{path} is not a release plan ({error}): restore it from a backup") from error
        if (plan.model, plan.release) != (model, release):
            raise ReleaseDamaged(f"{path} holds release {plan.release} of {plan.model}: restore it from a backup")
        return plan

    def _file(self, model: str, release: int) -> Path:
        return self._folder(model) / f"{release:08d}.json"

    def _folder(self, model: str) -> Path:
        if not PLAIN_NAME.fullmatch(model):
            raise ValueError(f"{model!r} cannot name a model: expected letters, digits, '_', '-' and '.'")
        return self.root / model


_POINTER = "current"


class _Pointer(msgspec.Struct, frozen=True):
    release: int
    sha256: str


def _encode(plan: ReleasePlan) -> bytes:
    encoded = msgspec.json.format(msgspec.json.encode(plan, order="deterministic"), indent=2)
    # JSON has no NaN or infinity, and msgspec writes null for them: say so before anything is published.
    try:
        faithful = msgspec.json.decode(encoded, type=ReleasePlan) == plan
    except msgspec.DecodeError:
        faithful = False
    if not faithful:
        raise ValueError(f"{plan.model}: release {plan.release} would read back differently: use finite numbers only")
    return encoded


def _content(path: str) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
