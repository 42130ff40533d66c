"""A bundle that can be relied on: whole, and answering its golden rows; fetched from a copy where the store has lost it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.rollout import Entrant, Release
from mlops_assets.core.scoring.load import verified_scorer
from mlops_assets.core.scoring.scorer import Engine, GoldenRows, Scorer, ScorerError
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.bundles import Bundle, BundleError


class OutOfReach(BundleError):
    """No copy of a bundle was whole, and not every place could be asked: it may yet be had."""


class ProvenBundle:
    """A bundle of which every byte and every golden answer has been checked, in this process."""

    def __init__(self, release: Release, manifest: Manifest, scorer: Scorer, golden: GoldenRows) -> None:
        self.release, self.manifest, self.scorer, self.golden = release, manifest, scorer, golden

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.manifest.features)

    def entrant(self) -> Entrant:
        return Entrant(self.release, self.features, self.manifest.fallback_value, self.manifest.as_of)


def prove(stores: Stores, model: str, release: Release, engine: Engine | None = None) -> ProvenBundle:
    """Check a version's bundle as the service would.

    Parameters
    ----------
    engine
        "numpy" is there at once, and answers the same; see `CompiledScorer`.

    Raises
    ------
    BundleError
        When it is lost everywhere, is another version's, or does not answer its golden rows to 1e-12.
    """
    bundle = whole_bundle(stores, model, release)
    manifest = bundle.manifest
    if (manifest.model, manifest.version) != (model, release.version):
        raise BundleError(
            f"bundle {bundle.id} holds {manifest.model} version {manifest.version}, not {model} version {release.version}: "
            "choose another version"
        )
    try:
        scorer, golden = verified_scorer(manifest, bundle.files, engine)
    except ScorerError as error:
        raise BundleError(
            f"version {release.version} of {model} does not answer as when it was made: {error}"
        ) from error
    return ProvenBundle(release, manifest, scorer, golden)


def whole_bundle(stores: Stores, model: str, release: Release) -> Bundle:
    """A version's bundle; where the store has lost or damaged it, it is put back from MLflow or from a Bento that carries it.

    Raises
    ------
    OutOfReach
        When no copy of it is whole, and there may be one where nobody could be asked.
    BundleError
        When no copy of it is whole, saying what was found in each place.
    """
    try:
        return stores.bundles.get(release.bundle)
    except BundleError as error:
        found = [str(error)]
    unasked: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
        for copy in _copies(stores, model, release, Path(folder), found, unasked):
            try:
                if stores.bundles.add_folder(copy) == release.bundle:
                    return stores.bundles.get(release.bundle)
                found.append(f"{copy} holds another bundle")
            except BundleError as error:
                found.append(str(error))
    if unasked:
        raise OutOfReach("; ".join((*found, *unasked)))
    raise BundleError("; ".join(found))


def _copies(
    stores: Stores, model: str, release: Release, folder: Path, found: list[str], unasked: list[str]
) -> Iterator[Path]:
    """Folders with a copy, the nearest first; what was looked for in vain is added to `found`, who is out of reach to `unasked`."""
    # None of them is needed where the store has the bundle.
    from mlflow.exceptions import MlflowException

    from mlops_assets.operations.bento import bento_path

    name = release.bundle.removeprefix("sha256:")
    yield from sorted(bento_path(stores.home, "predictor:any").parent.glob(f"*/src/carried/bundles/{name}"))
    try:
        versions = {facts.version: facts for facts in stores.registry.versions(model)}
    except MlflowException as error:
        unasked.append(f"MLflow is out of reach: {error}")
        return
    if release.version not in versions:
        found.append(f"MLflow has no version {release.version} of {model}")
        return
    try:
        yield stores.registry.fetch_folder(versions[release.version].run_id, f"bundles/{name}", folder)
    except FileNotFoundError as error:
        found.append(str(error))
    except OSError as error:
        unasked.append(str(error))
