"""Real rows with a binary model's answers and the truth: what the benchmarks of performance share."""

import functools
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from threadpoolctl import threadpool_limits

from benchmarks.common import SEED
from benchmarks.data import Data, census, flights

Floats = NDArray[np.float64]


class Answers(NamedTuple):
    """Stated probability of the positive class, and whether it came true (0/1), each of shape (n,)."""

    probability: Floats
    truth: Floats

    def at(self, rows: NDArray[np.bool_] | NDArray[np.int64] | slice) -> "Answers":
        return Answers(self.probability[rows], self.truth[rows])

    @property
    def output(self) -> Floats:
        """Both classes, shape (n, 2)."""
        return np.column_stack([1 - self.probability, self.probability])

    @property
    def frame(self) -> pd.DataFrame:
        """What NannyML takes: `p`, `decided`, `truth`."""
        return pd.DataFrame(
            {"p": self.probability, "decided": (self.probability >= 0.5).astype(int), "truth": self.truth.astype(int)}
        )


class Split(NamedTuple):
    """Answers to rows that the model was not fitted on: what it is watched against, and what is watched."""

    reference: Answers
    watched: Answers


@functools.cache
def in_time_order(name: str) -> Split:
    """Reference first, then what came after.

    Flights: fitted on January to mid-February, reference until the end of March, watched until December. Census: the answers
    of the model that comes with the data, reference 2015, watched 2016 to 2018.
    """
    if name == "census":
        frame = census().frame
        known = Answers(*(frame[column].to_numpy(np.float64) for column in ("predicted_probability", "employed")))
        year = frame["year"].to_numpy(np.float64)
        return Split(known.at(year == 2015), known.at(year > 2015))
    data = _labelled(flights())
    assert data.times is not None
    fitted = (data.times < pd.Timestamp("2013-02-15", tz="UTC")).to_numpy()
    reference = ~fitted & (data.times < pd.Timestamp("2013-04-01", tz="UTC")).to_numpy()
    answers = _answer(data, fitted)
    return Split(answers.at(reference), answers.at(~fitted & ~reference))


@functools.cache
def at_random(name: str) -> Split:
    """Both parts drawn at random from the same rows, so that nothing drifts.

    Flights: a model fitted on a random third of the year. Census: 2015.
    """
    random = np.random.default_rng(SEED)
    if name == "census":
        known = in_time_order(name).reference
    else:
        data = _labelled(flights())
        fitted = random.random(len(data.frame)) < 1 / 3
        known = _answer(data, fitted).at(~fitted)
    shuffled = random.permutation(len(known.truth))
    half = len(shuffled) // 2
    return Split(known.at(shuffled[:half]), known.at(shuffled[half:]))


def _labelled(data: Data) -> Data:
    rows = data.label.notna().to_numpy()
    times = None if data.times is None else data.times[rows]
    return data._replace(frame=data.frame[rows], times=times, label=data.label[rows])


def _answer(data: Data, fitted: NDArray[np.bool_]) -> Answers:
    """Answers of a boosted model, fitted on some of the rows, to all of them."""
    categories = [name for name, kind in data.kinds.items() if kind == "category"]
    numbers = [name for name in data.kinds if name not in categories]
    encode = ColumnTransformer(
        [
            ("numbers", "passthrough", numbers),
            ("categories", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan), categories),
        ]
    )
    places = range(len(numbers), len(data.kinds))
    boosted = HistGradientBoostingClassifier(
        categorical_features=list(places),
        learning_rate=0.05,
        max_iter=150,
        max_leaf_nodes=15,
        min_samples_leaf=100,
        early_stopping=False,
        random_state=SEED,
    )
    truth = data.label.to_numpy(np.float64)
    with threadpool_limits(1):  # threads that wait for each other cost more than they bring
        pipeline = make_pipeline(encode, boosted).fit(data.features[fitted], truth[fitted])
        return Answers(pipeline.predict_proba(data.features)[:, 1], truth)
