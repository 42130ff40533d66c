"""All drills by name, in the order in which `make drills` plays them."""

from mlops_assets.drills import crashes, data, models
from mlops_assets.drills.drill import Drill, Touch

# No °F of a New York spring is as low as what °C would be.
TIGHT_TEMP = {"flight_delay": {"features": {"temp": {"minimum": 18}}}}
# Share of the entities that a version on trial answers first.
SHARE = 0.05
# Small samples, so that a canary comes to something in a day of flights.
CANARY = {"strategy": "canary", "canary": {"shares": [SHARE, 0.25], "min_samples": 20}}
# One limit that the compiled scorer keeps on a busy machine, and very many trees in scikit-learn do not.
FAST = {**CANARY, "breaker": {"latency_ms": 50, "open_for": "2s"}}
# What is fitted on is then mostly what was poisoned, and the newer two weeks judge.
RECENT = {"flight_delay": {"training": {"start": None, "window": "25d"}}}

DRILLS: dict[str, Drill] = {
    one.name: one
    for one in (
        Drill(
            "crash-service",
            "kill -9 of a worker, of the server, of both",
            crashes.crash_service,
            overrides={"flight_delay": {"release": CANARY}},
            workers=2,
            daemon=False,
            touch=Touch(None, until="resolved"),
        ),
        Drill("full-disk", "no room for the log", crashes.full_disk, prepare=crashes.small_log, daemon=False),
        Drill(
            "corrupt-bundle",
            "damaged bundles: to be tried, to go back to, and the champion's",
            models.corrupt_bundle,
            overrides={"flight_delay": {"release": CANARY}},
            touch=Touch(0.0),
        ),
        Drill("locked-database", "the ledger and Dagster's databases are locked", crashes.locked_database),
        Drill(
            "slow-model",
            "a version that is right, and slow",
            models.slow_model,
            overrides={"flight_delay": {"release": FAST}},
            touch=Touch(SHARE),
        ),
        Drill(
            "bad-release",
            "a version that learnt wrong labels, and passed its gates",
            models.bad_release,
            model="air_time",
            overrides={"air_time": {"release": CANARY}},
            touch=Touch(SHARE),
        ),
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
