"""What the peers say of a stream of windows: NannyML's default and Evidently's dataset verdict."""

import contextlib
import io
import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.common import SEED

Alarms = NDArray[np.bool_]

EVIDENTLY_REFERENCE = 10_000  # rows: the tests it picks by default are those for any reference above 1,000


def nannyml_alarms(reference: pd.DataFrame, stream: pd.DataFrame, rows: int) -> Alarms:
    """`UnivariateDriftCalculator` with its defaults (Jensen–Shannon, three standard deviations): does any column alert? (W,)."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import nannyml

        calculator = nannyml.UnivariateDriftCalculator(column_names=list(reference.columns), chunk_size=rows)
        calculator.fit(reference.reset_index(drop=True))
        result = calculator.calculate(stream.reset_index(drop=True)).filter(period="analysis").to_df()
    alerts = result.xs("alert", axis=1, level=2).to_numpy(dtype=bool)
    found: Alarms = alerts.any(axis=1)[: len(stream) // rows]
    return found


def evidently_alarms(reference: pd.DataFrame, stream: pd.DataFrame, rows: int) -> Alarms:
    """Dataset drift: at least half of the columns drift by the test that Evidently picks for each by default, (W,).

    The tests are called without the report around them, which takes ten times as long and says the same.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently.legacy.calculations.stattests import get_stattest
        from evidently.legacy.core import ColumnType

        sample = reference.sample(min(EVIDENTLY_REFERENCE, len(reference)), random_state=SEED)
        texts = [name for name in reference.columns if not pd.api.types.is_numeric_dtype(reference[name])]
        sample, stream = _numbered(sample, stream, texts)
        known = {name: sample[name].dropna() for name in reference.columns}
        found = []
        for start in range(0, len(stream) // rows * rows, rows):
            window, drifted = stream.iloc[start : start + rows], 0
            for name in reference.columns:
                kind = ColumnType.Categorical if name in texts else ColumnType.Numerical
                then, now = known[name], window[name].dropna()
                if len(now):
                    drifted += bool(get_stattest(then, now, kind, None)(then, now, kind, None).drifted)
            found.append(drifted >= len(reference.columns) / 2)
    return np.array(found, dtype=np.bool_)


def _numbered(reference: pd.DataFrame, stream: pd.DataFrame, texts: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Numbers in place of levels: the tests ask only whether levels are the same, and count numbers much quicker."""
    both = pd.concat([reference, stream], ignore_index=True)
    for name in texts:
        numbers, _ = pd.factorize(both[name])
        both[name] = np.where(numbers < 0, np.nan, numbers)
    return both[: len(reference)], both[len(reference) :].reset_index(drop=True)
