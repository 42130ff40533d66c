from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from mlops_assets_tests.sensors.patient import Patient


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as one:
        yield one


@pytest.fixture
def patient(tmp_path: Path, instance: dg.DagsterInstance) -> Patient:
    return Patient(tmp_path, instance)
