"""Registered versions asked again on the very rows that the champion answered: the evidence for going back to one of them.

The comparison itself is that of `core/monitoring/rivals.py`.
"""

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlops_assets.core.metrics import Floats
from mlops_assets.core.monitoring.health import Former
from mlops_assets.core.monitoring.rivals import compare_paired
from mlops_assets.core.rollout import Release, ReleasePlan
from mlops_assets.core.scoring.scorer import CompiledScorer, ScorerError
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import predict
from mlops_assets.operations.readings import Readings
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.bundles import BundleError

logger = logging.getLogger(__name__)

MOST = 5


def rivals(
    spec: ModelSpec, stores: Stores, windows: Sequence[str], *, readings: Readings | None = None, most: int = MOST
) -> tuple[Former, ...]:
    """Every other version that could answer, on all labelled rows of the windows that the champion answered, the best first.

    Asked are the `most` newest of the registered versions that have a bundle, were not withdrawn and are not on trial; left out are
    those that lack a feature in the logged rows, refuse a value in them, or answer in another form.
    """
    plan = stores.releases.current(spec.name)
    if plan is None:
        return ()
    readings = readings or Readings(spec, stores)
    parts = [part for window in windows if (part := _answered(spec, readings, plan.champion, window)) is not None]
    if not parts:
        return ()
    features = pd.concat([part[0] for part in parts], ignore_index=True)
    truth, output = (np.concatenate([part[place] for part in parts]) for place in (1, 2))
    reference = readings.reference(plan.champion.bundle)
    spread = 1.0
    if reference is not None:
        spread = reference.held_out.performance.baselines()[spec.headline_loss].overdispersion
    found = []
    for release in _others(spec, stores, plan)[:most]:
        try:
            answers = ask_again(stores, spec.name, release.bundle, features)
        except ScorerError as error:
            logger.info("version %d of %s is not compared: %s", release.version, spec.name, error)
            continue
        if answers is not None and answers.shape == output.shape:
            rivalry = compare_paired(spec, truth, answers, output, overdispersion=spread)
            found.append(Former(release.version, rivalry.comparison, rivalry.is_better))
    return tuple(sorted(found, key=lambda one: (not one.is_better, one.comparison.champion)))


def ask_again(stores: Stores, model: str, bundle: str, features: pd.DataFrame) -> Floats | None:
    """What a version answers to logged rows; None where they lack a feature that it needs, or its bundle is not whole.

    Raises `ScorerError` where it refuses a value in them.

    Parameters
    ----------
    features
        As received, by name, n rows.

    Returns
    -------
    ndarray of float64, shape (n, K), or None
    """
    try:
        found = stores.bundles.get(bundle)
    except BundleError:
        return None
    names = [feature.name for feature in found.manifest.features]
    if any(name not in features for name in names):
        return None
    if found.manifest.uncompiled is not None:
        return predict(stores.registry.load(model, found.manifest.version), features[names])
    scorer = CompiledScorer.from_files(found.files["scorer.npz"], found.files["scorer.json"])
    return scorer.score_columns({name: features[name].to_numpy() for name in names})


def as_scored(stores: Stores, model: str, rows: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Logged features without the values that the plan of their release took for missing.

    The log holds them as received; a rival is to answer what the champion was made to answer.
    """
    masked = {plan.release: plan.masked for plan in stores.releases.history(model) if plan.masked}
    if not masked or not rows["release"].isin(masked).any():
        return features
    features = features.copy()
    for release, names in masked.items():
        at = (rows["release"] == release).to_numpy()
        for name in names:
            if name in features:
                features[name] = features[name].where(~at, None)
    return features


def _answered(
    spec: ModelSpec, readings: Readings, champion: Release, window: str
) -> tuple[pd.DataFrame, Floats, Floats] | None:
    """Features, truths and outputs of the labelled rows that the champion, not its fallback, answered in a window."""
    try:
        answers, labelled = readings.answers(window).of_one_version(), readings.labelled(window)
    except FileNotFoundError:  # no traffic came in it
        return None
    if labelled.bundle != champion.bundle:
        return None
    rows = answers.rows[labelled.at]
    own = (rows["role"] == "champion").to_numpy()
    if not own.any():
        return None
    features = as_scored(readings.stores, spec.name, rows[own], answers.features[labelled.at][own])
    return features, labelled.truth[own], labelled.output[own]


def _others(spec: ModelSpec, stores: Stores, plan: ReleasePlan) -> list[Release]:
    """The versions that could be gone back to, the newest first."""
    served = {one.champion.version: one.champion for one in stores.releases.history(spec.name)}
    bundled = {
        facts.version: Release(facts.version, facts.tags["bundle"])
        for facts in stores.registry.versions(spec.name)
        if "bundle" in facts.tags
    }
    tried = () if plan.challenger is None else (plan.challenger.version,)
    left_out = {plan.champion.version, *plan.withdrawn, *tried}
    return [one for _, one in sorted({**bundled, **served}.items(), reverse=True) if one.version not in left_out]
