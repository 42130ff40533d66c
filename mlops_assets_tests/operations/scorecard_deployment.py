"""A deployment on disk with answers in its log and lines in its ledger, for tests of the scorecard."""

from pathlib import Path

from mlops_assets.core.ledger import Ended, Mitigated, Released, Resolved, Started
from mlops_assets_tests.core.examples import LIVE_FROM
from mlops_assets_tests.core.ledger_examples import decided, entry, opened
from mlops_assets_tests.operations.traffic_examples import DAY, HOUR, Traffic, window


def deployed(folder: Path) -> Traffic:
    """Two days of model "delay" with one answer in four lost, a broken feed, two releases and a training; and a retired model."""
    traffic = Traffic(folder)
    lost = {"features": (), "output": ()}
    traffic.segment(
        *[traffic.prediction(number) for number in (0, 1, 30)],
        traffic.prediction(31, status=500, **lost),
        traffic.prediction(32, status=422, **lost),
    )
    traffic.take()
    served = LIVE_FROM + 30 * HOUR
    wall = {"at": served + HOUR / 30}
    traffic.stores.ledger.record(
        entry("i-1", opened(window=window(1), began=LIVE_FROM + DAY), **wall, now=LIVE_FROM + 2 * DAY),
        entry("i-1", Mitigated("imputed"), at=served + HOUR / 12),
        entry("i-1", Resolved("it is back"), at=served + HOUR, now=LIVE_FROM + 4 * DAY),
        entry("delay", Released(1, 1, None, "immediate", False, "first")),
        entry("delay", Released(2, 2, 1, "immediate", True, "better")),
        entry("d-1", decided(), now=LIVE_FROM + 2 * DAY),
        entry("d-1", Started(1)),
        entry("d-1", Ended("done", 1)),
        entry("old", Released(5, 5, 4, "canary", True, "better"), model="old"),
    )
    return traffic
