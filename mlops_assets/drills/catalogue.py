"""All drills by name, in the order in which `make drills` plays them."""

from mlops_assets.drills import crashes
from mlops_assets.drills.drill import Drill

DRILLS: dict[str, Drill] = {
    one.name: one
    for one in (
        Drill(
            "crash-service", "kill -9 of a worker, then of the server", crashes.crash_service, workers=2, daemon=False
        ),
        Drill(
            "full-disk",
            "no room for the prediction log",
            crashes.full_disk,
            prepare=crashes.small_log,
            daemon=False,
        ),
        Drill("locked-database", "the ledger and Dagster's databases are locked", crashes.locked_database),
    )
}
