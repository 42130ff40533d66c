"""The code location: loads `defs/` and binds the resources."""

from pathlib import Path
from typing import Any

import dagster as dg

from mlops_assets.assets.scorecard import scorecard_definitions
from mlops_assets.resources import make_resources
from mlops_assets.sensors.notices import notices_sensor


def build_definitions(resources: dict[str, Any]) -> dg.Definitions:
    """Everything that is declared below `defs/`, the scorecard and the notices of it all, with the resources given."""
    declared = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    shared = dg.Definitions(sensors=[notices_sensor()], resources=resources, executor=dg.in_process_executor)
    return dg.Definitions.merge(declared, scorecard_definitions(), shared)


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions of this deployment, on its own state."""
    return build_definitions(make_resources())
