"""All drills by name, in the order in which `make drills` plays them."""

from mlops_assets.drills import crashes, data, models
from mlops_assets.drills.drill import Drill

# No °F of a New York spring is as low as what °C would be.
TIGHT_TEMP = {"flight_delay": {"features": {"temp": {"minimum": 18}}}}
# One limit that the compiled scorer keeps on a busy machine, and very many trees in scikit-learn do not.
FAST = {"flight_delay": {"response": {"service": {"latency_ms": 50}}}}
# What is fitted on is then mostly what was poisoned, and the newer two weeks judge.
RECENT = {"flight_delay": {"training": {"start": None, "window": "25d"}}}

DRILLS: dict[str, Drill] = {
    one.name: one
    for one in (
        Drill(
            "crash-service",
            "kill -9 of a worker, of the server, of both",
            crashes.crash_service,
            workers=2,
            daemon=False,
        ),
        Drill("full-disk", "no room for the log", crashes.full_disk, prepare=crashes.small_log, daemon=False),
        Drill("corrupt-bundle", "damaged bundles: to go back to, and the champion's", models.corrupt_bundle),
        Drill("locked-database", "the ledger and Dagster's databases are locked", crashes.locked_database),
        Drill("slow-model", "a version that is right, and slow", models.slow_model, overrides=FAST),
        Drill("bad-release", "a version that learnt labels in random order", models.bad_release, model="air_time"),
        Drill(
            "crash-daemon", "kill -9 of the daemon in the middle of a decision", models.crash_daemon, model="air_time"
        ),
        Drill("bad-retrain", "labels the wrong way round in a training", models.bad_retrain, overrides=RECENT),
        Drill("dead-feed", "the weather goes missing", data.dead_feed),
        Drill("unit-change", "°F becomes °C", data.unit_change, overrides=TIGHT_TEMP),
        Drill("new-category", "destinations that nobody knows", data.new_category, model="air_time"),
        Drill("label-outage", "labels do not come", data.label_outage),
        Drill("duplicate-traffic", "everything is sent three times", data.duplicate_traffic),
        Drill("clock-jump", "an event dated 2099", data.clock_jump),
        Drill("season", "real traffic from March on, labels a week late", data.season, model="air_time"),
    )
}
