"""What the service counts and times, exposed through BentoML's `/metrics`.

Every label is bounded: models and versions that are loaded, their features, routes that exist, statuses that we send. What
a request changes is counted in this process (`tallies.py`) and handed over by `flush_tallies`. In a server with several
workers the values of all are summed by `prometheus_client`'s multiprocess mode, which BentoML sets up; gauges carry the
worker's pid.
"""

import os
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.multiprocess import mark_process_dead

from mlops_assets.core.records import Role
from mlops_assets.serving.breaker import Breaker, State
from mlops_assets.serving.tallies import Distribution, Tally, distributed, tallied

Loaded = tuple[int, Role]
_STATES: dict[State, int] = {"closed": 0, "half-open": 1, "open": 2}

_BUCKETS_SECONDS = (
    20e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0, 5.0,
)  # fmt: skip
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99, 1.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)

_REQUESTS = tallied(Counter("mlops_requests", "Requests by what became of them", ["model", "route", "status"]))
_DURATION = distributed(
    Histogram(
        "mlops_request_duration_seconds",
        "From headers read to answer ready",
        ["model", "route"],
        buckets=_BUCKETS_SECONDS,
    )
)
_PREDICTIONS = tallied(Counter("mlops_predictions", "Rows answered and logged", ["model", "version", "role"]))
_CONFIDENCE = distributed(
    Histogram(
        "mlops_prediction_confidence",
        "The highest probability of each answered row of a classifier",
        ["model", "version", "role"],
        buckets=_SHARES,
    )
)
_IMPUTED = tallied(Counter("mlops_imputed_values", "Missing values that were filled", ["model", "feature"]))
_OUT_OF_DOMAIN = tallied(Counter("mlops_out_of_domain_values", "Values outside the known domain", ["model", "feature"]))
_LABELS = tallied(Counter("mlops_labels", "Labels accepted and logged", ["model"]))
_SHED = tallied(Counter("mlops_shed_requests", "Requests turned away because too much waits", ["model", "reason"]))
_BATCHES = distributed(
    Histogram("mlops_batch_rows", "Rows that a model which is not compiled scored together", ["model"], buckets=_ROWS)
)
_CACHE = tallied(Counter("mlops_cache_lookups", "Rows looked up in the answer cache", ["model", "found"]))
_SHADOW_COMPARED = tallied(
    Counter("mlops_shadow_compared_rows", "Rows that champion and shadow both answered", ["model", "version"])
)
_SHADOW_AGREEING = tallied(
    Counter(
        "mlops_shadow_agreeing_rows",
        "Of those, the rows with the same class, or values within a tenth",
        ["model", "version"],
    )
)
_SHADOW_DROPPED = tallied(
    Counter("mlops_shadow_dropped_rows", "Rows that were not scored in shadow", ["model", "reason"])
)
_FAILURES = tallied(
    Counter(
        "mlops_scoring_failures",
        "Requests put to a version that it failed, whoever answered",
        ["model", "version", "role"],
    )
)
# What follows changes seldom, or in other threads, and is written at once.
_REFUSED = Counter("mlops_refused_releases", "Releases that could not be loaded, each attempt counted", ["model"])
_LOG_FAILURES = Counter("mlops_log_failures", "Records that could not be written to the prediction log")
_TRIPS = Counter("mlops_breaker_trips", "How often a version was not asked any more", ["model", "version"])
_INFO = Gauge(
    "mlops_model_info", "1 for what a worker answers from", ["model", "version", "role"], multiprocess_mode="liveall"
)
_BREAKER = Gauge(
    "mlops_breaker_state",
    "0 while a version is asked, 1 while it is tried again, 2 while it is not asked",
    ["model", "version"],
    multiprocess_mode="liveall",
)
_RELEASE = Gauge("mlops_model_release", "Release that a worker answers from", ["model"], multiprocess_mode="liveall")
_DECIDED = Gauge(
    "mlops_model_release_timestamp_seconds",
    "When the release that a worker answers from was decided; its age is time() minus this",
    ["model"],
    multiprocess_mode="liveall",
)
_LAG = Gauge(
    "mlops_event_loop_lag_seconds",
    "Longest wait of a request for its turn, in the last second",
    multiprocess_mode="liveall",
)
_IN_FLIGHT = Gauge("mlops_requests_in_flight", "Requests that are being answered", multiprocess_mode="liveall")
_LOG_WAITING = Gauge(
    "mlops_log_waiting_records",
    "Records that are not written yet: their answers wait for that",
    multiprocess_mode="liveall",
)
_SHADOW_WAITING = Gauge(
    "mlops_shadow_waiting_rows", "Rows that wait to be scored in shadow", multiprocess_mode="liveall"
)


class ModelMetrics:
    """The counters of one loaded version, bound to its labels."""

    def __init__(self, model: str, version: int, role: str, features: tuple[str, ...]):
        self.predictions = _PREDICTIONS.labels(model, str(version), role)
        self._confidence = _CONFIDENCE.labels(model, str(version), role)
        self.failures = _FAILURES.labels(model, str(version), role)
        self._imputed = {name: _IMPUTED.labels(model, name) for name in features}
        self._out_of_domain = {name: _OUT_OF_DOMAIN.labels(model, name) for name in features}

    def confident(self, outputs: Sequence[Sequence[float]]) -> None:
        """Show how sure a classifier is of its answers, given as one or more outputs a row; a value is not counted."""
        for output in outputs:
            if len(output) > 1:
                self._confidence.observe(max(output))

    def flagged(self, imputed: tuple[str, ...], out_of_domain: tuple[str, ...]) -> None:
        for name in imputed:
            self._imputed[name].inc()
        for name in out_of_domain:
            self._out_of_domain[name].inc()


class ShadowMetrics:
    """What of one model was scored in shadow and agreed with the answers, and what was not scored."""

    def __init__(self, model: str) -> None:
        self._model = model

    def compared(self, version: int, rows: int, agreeing: int) -> None:
        _SHADOW_COMPARED.labels(self._model, str(version)).inc(rows)
        _SHADOW_AGREEING.labels(self._model, str(version)).inc(agreeing)

    def dropped(self, reason: str, rows: int) -> None:
        _SHADOW_DROPPED.labels(self._model, reason).inc(rows)


class BreakerMetrics:
    """The state of one version's breaker, shown whenever it changes."""

    def __init__(self, model: str, version: int) -> None:
        self._state = _BREAKER.labels(model, str(version))
        self._trips = _TRIPS.labels(model, str(version))
        self._state.set(0)

    def show(self, breaker: Breaker) -> None:
        self._state.set(_STATES[breaker.state])
        if breaker.state == "open":
            self._trips.inc()


class RequestMetrics:
    """Counts and times requests, by model, route and status."""

    def __init__(self) -> None:
        self._children: dict[tuple[str, str, int], tuple[Tally, Distribution]] = {}

    def observe(self, model: str, route: str, status: int, seconds: float) -> None:
        key = (model, route, status)
        children = self._children.get(key)
        if children is None:
            children = _REQUESTS.labels(model, route, str(status)), _DURATION.labels(model, route)
            self._children[key] = children
        children[0].inc()
        children[1].observe(seconds)


class BatchMetrics:
    """How many rows of one model were scored together."""

    def __init__(self, model: str) -> None:
        self.rows = _BATCHES.labels(model)


class CacheMetrics:
    """How often the answer cache of one model had the row."""

    def __init__(self, model: str) -> None:
        self.found = _CACHE.labels(model, "yes")
        self.missed = _CACHE.labels(model, "no")


def count_shed(model: str, reason: str) -> None:
    """Count a request that was turned away."""
    _SHED.labels(model, reason).inc()


def show_load(lag_s: float, in_flight: int, log_waiting: int, shadow_waiting: int) -> None:
    """Say what waits in this worker."""
    _LAG.set(lag_s)
    _IN_FLIGHT.set(in_flight)
    _LOG_WAITING.set(log_waiting)
    _SHADOW_WAITING.set(shadow_waiting)


def count_labels(model: str, labels: int) -> None:
    """Count labels that are on record."""
    _LABELS.labels(model).inc(labels)


def count_refused(model: str) -> None:
    """Count a release that could not be loaded."""
    _REFUSED.labels(model).inc()


def count_log_failure() -> None:
    """Count a write to the log that failed."""
    _LOG_FAILURES.inc()


def show_release(
    model: str, release: int, decided_at: datetime, loaded: Collection[Loaded], former: Collection[Loaded]
) -> None:
    """Say which release a worker now answers from, and who is loaded in which role; the lines of those that went go to 0."""
    for version, role in set(former) - set(loaded):
        _INFO.labels(model, str(version), role).set(0)
    for version, role in loaded:
        _INFO.labels(model, str(version), role).set(1)
    _RELEASE.labels(model).set(release)
    _DECIDED.labels(model).set(decided_at.timestamp())


def forget_dead_workers() -> None:
    """Drop the gauges of workers that were killed, which nothing else does."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return
    pids = {int(file.stem.rpartition("_")[2]) for file in Path(folder).glob("gauge_live*_*.db")}
    for pid in pids:
        if not Path("/proc", str(pid)).exists() and Path("/proc").exists():
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
