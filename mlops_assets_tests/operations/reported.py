"""A watched model with twelve days of judged traffic; from the tenth on its data are broken."""

from datetime import timedelta
from pathlib import Path

import numpy as np

from mlops_assets.operations.monitor import Monitor
from mlops_assets_tests.operations.watched import BEGIN, LIVE_FROM, Watched, watched_rows

DAYS, BROKEN_FROM = 12, 9


def day(number: int) -> str:
    """The key of the window so many days after going live."""
    return (LIVE_FROM + timedelta(days=number)).strftime("%Y-%m-%d")


def judged_home(home: Path, days: int = DAYS) -> Watched:
    """In the broken days wind is missing, it is colder, and a carrier is new; labels are there but for the last two days."""
    watched = Watched.released(home)
    for number in range(days):
        rows = watched_rows("binary", LIVE_FROM + timedelta(days=number), 1, seed=50 + number)
        if number >= BROKEN_FROM:
            rows["wind"] = np.where(np.arange(len(rows)) % 20 == 0, rows["wind"], np.nan)
            rows["temp"] -= 12
            rows.loc[::9, "carrier"] = "ZZ"
        watched.log(rows, labels=number < DAYS - 2, worker=f"w{number}")
    monitor = Monitor(watched.spec, watched.stores)
    for window in watched.compacted():
        monitor.data_health(window)
        monitor.model_health(window)
    watched.stores.lake.write_table(watched.spec.name, "validated_features", watched_rows("binary", BEGIN, 60, seed=1))
    return watched
