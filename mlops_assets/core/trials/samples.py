"""Which logged outcomes are samples of their own, and which are compared with each other. How is told in `judging.py`."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

_LEAST_OF_THE_SHARE = 50
_MOST_BLOCKS = 32


def first_of_each_outcome(
    entity: "pd.Series[str]", asked: "pd.Series[pd.Timestamp]", known: "pd.Series[pd.Timestamp]"
) -> Bools:
    """Whether a labelled row is the first that is about its outcome, shape (n,).

    What is asked about an entity while the outcome of its row before is still open is about the same outcome: a customer who is
    asked for fifty times until it is known whether he has left makes one sample, not fifty. Rows without an entity stand for
    themselves.

    Parameters
    ----------
    entity, asked, known
        Whom each row is about, the event time at which it was asked for and the one at which its label was known, in rising order
        of `asked`.
    """
    first = np.ones(len(entity), dtype=bool)
    again = np.flatnonzero((entity.notna() & entity.duplicated(keep=False)).to_numpy())
    open_until: dict[str, pd.Timestamp] = {}
    for place, who, begin, end in zip(again, entity.iloc[again], asked.iloc[again], known.iloc[again], strict=True):
        if who in open_until and begin <= open_until[who]:
            first[place] = False
        else:
            open_until[who] = max(begin, end)
    return first


def blocks(of_the_share: Bools) -> NDArray[np.int64]:
    """Which block each request belongs to, shape (n,): requests of one time, whose answers are compared with each other.

    Where a challenger was not asked for a while, the share that came true is another one than at other times, and so may be the
    rate of errors: over all together, a share of the errors would prove nothing. Within a block it does (Mantel & Haenszel 1959).
    Blocks are cut by who belongs to the share, and not by what became of it: at least 50 of the challenger's in each, and so many
    that there are no more than 32.

    Parameters
    ----------
    of_the_share
        Whether a request was the challenger's to answer, whoever did, in the order of time.
    """
    size = max(_LEAST_OF_THE_SHARE, -(-int(of_the_share.sum()) // _MOST_BLOCKS))
    found: NDArray[np.int64] = np.maximum(np.cumsum(of_the_share) - 1, 0) // size
    return found
