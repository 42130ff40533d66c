"""From the files of a bundle to a scorer that has proven itself. Reading and hashing the files is the business of `stores`."""

from collections.abc import Mapping

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.scoring.scorer import CompiledScorer, Engine, GoldenRows, Scorer, ScorerError


def load_scorer(manifest: Manifest, files: Mapping[str, bytes], engine: Engine | None = None) -> Scorer:
    """The scorer that a bundle holds, not yet warmed up or compared with its golden rows.

    Parameters
    ----------
    engine
        Of a compiled model; see `CompiledScorer`.

    Raises
    ------
    ScorerError
        When the files are damaged, or their features are not those of the manifest.
    """
    if manifest.uncompiled is None:
        scorer: Scorer = CompiledScorer.from_files(files["scorer.npz"], files["scorer.json"], engine)
    else:
        # The one way by which scikit-learn and pandas come into a serving process.
        from mlops_assets.core.scoring.uncompiled import PipelineScorer

        scorer = PipelineScorer(files["pipeline.skops"], manifest)
    names = tuple(feature.name for feature in manifest.features)
    if scorer.features != names:
        raise ScorerError(f"the scorer takes the features {scorer.features}, its manifest declares {names}")
    return scorer


def verified_scorer(
    manifest: Manifest, files: Mapping[str, bytes], engine: Engine | None = None
) -> tuple[Scorer, GoldenRows]:
    """A scorer that is warmed up and has answered the bundle's golden rows as it did when it was made, to 1e-12.

    Parameters
    ----------
    engine
        Of a compiled model; see `CompiledScorer`.

    Raises
    ------
    ScorerError
        When it does not, or cannot be loaded.
    """
    scorer = load_scorer(manifest, files, engine)
    scorer.warm_up()
    golden = GoldenRows.from_json(files["golden.json"])
    golden.verify(scorer)
    return scorer, golden
