"""What is read of a window's table in streams, written by hand as no log would give it in a hurry."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from mlops_assets.core.live_traffic import FEATURE
from mlops_assets.core.monitoring.reference import ReferenceProfile
from mlops_assets.operations.ingestion import TABLES
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.window_data import Answered, WindowData
from mlops_assets.stores.home import Home
from mlops_assets_tests.core.examples import make_spec

WINDOW = "2024-03-01"
SPEC = make_spec()  # temperatures from -40 to 130
REFERENCE = ReferenceProfile.of(
    pd.DataFrame({"temp": [float(one) for one in range(20, 90)]}), {"temp": "number"}, None, 10
)


def test_a_canary_is_not_judged_however_large_its_share_and_a_shadow_is_not_counted(tmp_path: Path):
    rows = (
        [("champion", 3, "a")] * 3 + [("challenger", 4, "b")] * 6 + [("standby", 2, "c")] * 2 + [("shadow", 5, "d")] * 9
    )
    roles, versions, bundles = zip(*rows, strict=True)
    table = pa.table({"role": roles, "status": [200] * len(rows), "version": versions, "bundle": bundles})
    stores = Stores(Home(tmp_path))
    stores.lake.write_arrow(SPEC.name, f"{TABLES}/{WINDOW}", table)
    answered = WindowData(SPEC, stores, WINDOW).answered()
    assert answered == Answered(requests=11, rows=11, version=3, bundle="a")
    stores.lake.write_arrow(SPEC.name, f"{TABLES}/{WINDOW}", table.slice(3, 6))
    assert WindowData(SPEC, stores, WINDOW).answered() == Answered(requests=6, rows=6, version=4, bundle="b")


def window_of(home: Path, temp: pa.Array, status: int = 200) -> WindowData:
    rows = len(temp)
    table = pa.table(
        {
            "role": pa.array(["champion"] * rows).dictionary_encode(),
            "status": [status] * rows,
            "event_time": pa.array([pd.Timestamp("2024-03-01T05:00Z")] * rows, pa.timestamp("us", "UTC")),
            FEATURE + "temp": temp,
        }
    )
    stores = Stores(Home(home))
    stores.lake.write_arrow(SPEC.name, f"{TABLES}/{WINDOW}", table)
    return WindowData(SPEC, stores, WINDOW)


@pytest.mark.parametrize(
    ("temp", "share"),
    [
        (pa.array([50.0, 200.0, None, -80.0, float("nan")]), 2 / 3),
        (pa.array([50, 200, None], pa.int64()), 1 / 2),
        (pa.array(["50", "200", None, "-80", "warm"]), 2 / 3),
        (pa.array(["50", "200", None]).dictionary_encode(), 1 / 2),
    ],
    ids=["numbers", "integers", "text", "coded text"],
)
def test_values_outside_the_declared_range_are_counted_whatever_they_are_stored_as(
    tmp_path: Path, temp: pa.Array, share: float
):
    """Where a feature had changed its type from one bundle to the next, its numbers were text, and could not be compared."""
    data = window_of(tmp_path, temp)
    assert data.impossible(REFERENCE, data.profile(REFERENCE)) == {"temp": pytest.approx(share)}


def test_a_column_with_nothing_outside_is_not_read_again(tmp_path: Path):
    data = window_of(tmp_path, pa.array([50.0, 100.0, None]))
    assert data.impossible(REFERENCE, data.profile(REFERENCE)) == {}
