"""A fitted pipeline as skops bytes, and back, with the types it needs named. In memory only; nothing is ever unpickled."""

import importlib
from collections.abc import Collection

from sklearn.pipeline import Pipeline
from skops import io as skops_io
from skops.io.exceptions import UntrustedTypesFoundException

from mlops_assets.core.imputation import PlanImputer

_OWN_TYPE = f"{PlanImputer.__module__}.{PlanImputer.__qualname__}"


def dump_pipeline(pipeline: Pipeline) -> tuple[bytes, tuple[str, ...]]:
    """Write a fitted pipeline.

    Returns
    -------
    tuple
        The skops bytes, and the types that must be trusted to read them beyond those that skops itself trusts, sorted.
    """
    data = skops_io.dumps(pipeline)
    return data, tuple(sorted(skops_io.get_untrusted_types(data=data)))


def load_pipeline(data: bytes, trusted: Collection[str]) -> Pipeline:
    """Read what `dump_pipeline` wrote.

    Parameters
    ----------
    trusted
        Types that may be made beside those that skops trusts, scikit-learn's classes and our imputer: the manifest's list.

    Raises
    ------
    ValueError
        When the bytes ask for another type, or are no pipeline.
    """
    try:
        asked = skops_io.get_untrusted_types(data=data)
        refused = [name for name in asked if not (name in trusted or _is_known(name))]
        if refused:
            raise ValueError(f"the pipeline asks for types that are not allowed: {', '.join(refused)}")
        pipeline = skops_io.loads(data, trusted=asked)
    except (UntrustedTypesFoundException, TypeError, KeyError, AttributeError, OSError, ImportError) as error:
        raise ValueError(f"the pipeline cannot be read: {error}") from error
    if not isinstance(pipeline, Pipeline):
        raise ValueError(f"the file holds a {type(pipeline).__name__}, not a pipeline")
    return pipeline


def _is_known(name: str) -> bool:
    """Whether this is our imputer or a class of scikit-learn; functions are not, since some of numpy's run code."""
    if name == _OWN_TYPE:
        return True
    module, _, attribute = name.rpartition(".")
    if not module.startswith("sklearn."):
        return False
    found = getattr(importlib.import_module(module), attribute, None)
    return isinstance(found, type) and found.__module__.startswith("sklearn.")
