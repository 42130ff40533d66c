"""Building the Bento of the service: its code, the current release plans, and the bundles that they put in service.

The result answers wherever it is started, with no store in reach. No network and no container engine is needed to build it.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import yaml

import mlops_assets
from mlops_assets.core.manifest import Manifest
from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.stores.bundles import BundleError, BundleStore
from mlops_assets.stores.home import Home
from mlops_assets.stores.releases import ReleaseStore

logger = logging.getLogger(__name__)

NAME = "predictor"
PACKAGE = Path(mlops_assets.__file__).parent
SOURCE = PACKAGE.parent / "bentos" / NAME

# What the service imports of the package. The rest, and what it depends on, stays out of the image.
_PARTS = ("__init__.py", "core", "stores", "serving")
# A model that could not be compiled is answered by scikit-learn, which the image has only then.
_UNCOMPILED_PACKAGES = ("scikit-learn", "pandas", "scipy", "skops", "pydantic")


class BentoError(RuntimeError):
    """The Bento cannot be built."""


def build_bento(home: Home, models: tuple[str, ...] | None = None, *, instead: ReleasePlan | None = None) -> str:
    """Build the Bento of the current releases and return its tag.

    Its version follows from its content, so that the same code and releases are built once.

    Parameters
    ----------
    models
        Those to carry; all that are released when None.
    instead
        A plan that is about to be published, carried in place of its model's current one.

    Raises
    ------
    BentoError
        When a model has no release, the service's source is not there, or BentoML fails.
    BundleError
        When a champion's bundle is missing or damaged. Another's is left out then: the service goes on without it.
    """
    if not (SOURCE / "service.py").is_file():
        raise BentoError(f"the service's source is not in {SOURCE}: run from a clone of the project")
    with tempfile.TemporaryDirectory(prefix="bento-") as folder:
        context = Path(folder) / NAME
        _stage(context, home, _plans(home, models, instead))
        version = _content_hash(context)
        if not _is_built(home, version):
            _build(context, home, version)
    return f"{NAME}:{version}"


def bento_path(home: Home, tag: str) -> Path:
    """The folder of a built Bento, which `serve` takes as its target."""
    name, _, version = tag.partition(":")
    return home.bentoml / "bentos" / name / version


def _plans(home: Home, models: tuple[str, ...] | None, instead: ReleasePlan | None) -> list[ReleasePlan]:
    releases = ReleaseStore(home.releases)
    names = set(releases.models() if models is None else models)
    coming = {} if instead is None else {instead.model: instead}
    plans = []
    for model in sorted(names | coming.keys()):
        plan = coming.get(model) or releases.current(model)
        if plan is None:
            raise BentoError(f"model {model!r} has no release in {home.releases} that a Bento could carry")
        plans.append(plan)
    return plans


def _stage(context: Path, home: Home, plans: list[ReleasePlan]) -> None:
    """Lay out the folder that becomes the Bento's source."""
    ignored = shutil.ignore_patterns(
        "__pycache__", "*.pyc", "monitoring"
    )  # monitors look at the log, not over the service's shoulder
    context.mkdir()
    for part in _PARTS:
        source, target = PACKAGE / part, context / PACKAGE.name / part
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignored)
        else:
            shutil.copy(source, target)
    shutil.copy(SOURCE / "service.py", context)
    carried, store = context / "carried", BundleStore(home.bundles)
    (carried / "plans").mkdir(parents=True)
    manifests = []
    for plan in plans:
        (carried / "plans" / f"{plan.model}.json").write_bytes(msgspec.json.encode(plan))
        for bundle in _bundles(plan, store):
            manifests.append(store.get(bundle).manifest)
            shutil.copytree(store.path(bundle), BundleStore(carried / "bundles").path(bundle), dirs_exist_ok=True)
    (context / "bentofile.yaml").write_text(_build_file(manifests))


def _bundles(plan: ReleasePlan, store: BundleStore) -> Iterator[str]:
    yield plan.champion.bundle
    for one in (plan.challenger, plan.standby):
        if one is not None and _is_whole(store, one.bundle):
            yield one.bundle


def _is_whole(store: BundleStore, bundle: str) -> bool:
    try:
        store.get(bundle)
    except BundleError as error:
        logger.warning("The Bento goes without a bundle: %s", error)
        return False
    return True


def _build_file(manifests: list[Manifest]) -> str:
    """The build file with what uncompiled models need added, in the versions that they were trained with."""
    declared = yaml.safe_load((SOURCE / "bentofile.yaml").read_text())
    packages = declared["python"]["packages"]
    for manifest in manifests:
        if manifest.uncompiled is not None:
            pinned = {name: f"{name}=={manifest.libraries[name]}" for name in manifest.libraries}
            packages += [pinned.get(name, name) for name in _UNCOMPILED_PACKAGES]
    declared["python"]["packages"] = list(dict.fromkeys(packages))
    return yaml.safe_dump(declared, sort_keys=False)


def _content_hash(context: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in context.rglob("*") if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(context).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:20]


def _is_built(home: Home, version: str) -> bool:
    return (bento_path(home, f"{NAME}:{version}") / "bento.yaml").is_file()


def _build(context: Path, home: Home, version: str) -> None:
    # In a process of its own: BentoML reads its home once per process, and imports the service it builds.
    home.bentoml.mkdir(parents=True, exist_ok=True)
    outcome = subprocess.run(
        [sys.executable, "-m", "bentoml", "build", str(context), "--version", version, "--output", "tag"],
        env={**os.environ, "BENTOML_HOME": str(home.bentoml), "BENTOML_DO_NOT_TRACK": "True"},
        cwd=context,
        capture_output=True,
        text=True,
        check=False,
    )
    # Somebody else may have built the same in the meantime, in which case BentoML refuses and all is well.
    if outcome.returncode != 0 and not _is_built(home, version):
        raise BentoError(f"BentoML could not build {NAME}:{version}:\n{outcome.stdout}\n{outcome.stderr}".strip())
