"""Any sequential test with any batch: what a rollout holds by name, writes down and replays.

What the tests compute is the business of `odds` and `means`.
"""

from collections.abc import Iterable, Iterator

from mlops_assets.core.sequential.means import Differences, PairedMeans, ValueMeans, Values
from mlops_assets.core.sequential.odds import Errors, OddsAlarm, Sprt

Test = Sprt | OddsAlarm | PairedMeans | ValueMeans
Batch = Errors | Differences | Values


def advance(test: Test, batch: Batch) -> Test:
    """The test after one more batch.

    Raises
    ------
    TypeError
        When the batch is of a kind that the test does not take.
    """
    match test, batch:
        case ((Sprt() | OddsAlarm()), Errors()):
            return test.after(batch)
        case PairedMeans(), Differences():
            return test.after(batch)
        case ValueMeans(), Values():
            return test.after(batch)
    raise TypeError(f"{type(test).__name__} does not take {type(batch).__name__}")


def replay(test: Test, batches: Iterable[Batch]) -> Iterator[Test]:
    """The test after each batch: its looks are the path of the evidence, the last one decides."""
    for batch in batches:
        test = advance(test, batch)
        yield test
