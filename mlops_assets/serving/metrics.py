"""What the service counts and times, exposed through BentoML's `/metrics`.

Every label is bounded: models that are loaded, routes that exist, statuses that we send. Children are bound once, since looking
one up costs more than counting. In a server with several workers the values of all are summed by `prometheus_client`'s
multiprocess mode, which BentoML sets up; gauges carry the worker's pid.
"""

import os
from collections.abc import Collection
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.multiprocess import mark_process_dead

from mlops_assets.core.records import Role
from mlops_assets.serving.breaker import Breaker, State

Loaded = tuple[int, Role]
_STATES: dict[State, int] = {"closed": 0, "half-open": 1, "open": 2}

_BUCKETS_SECONDS = (
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0, 5.0,
)  # fmt: skip

_REQUESTS = Counter("mlops_requests", "Requests by what became of them", ["model", "route", "status"])
_DURATION = Histogram(
    "mlops_request_duration_seconds", "From headers read to answer ready", ["model", "route"], buckets=_BUCKETS_SECONDS
)
_PREDICTIONS = Counter("mlops_predictions", "Rows answered and logged", ["model", "version", "role"])
_IMPUTED = Counter("mlops_imputed_values", "Missing values that were filled", ["model", "feature"])
_OUT_OF_DOMAIN = Counter("mlops_out_of_domain_values", "Values outside the known domain", ["model", "feature"])
_LABELS = Counter("mlops_labels", "Labels accepted and logged", ["model"])
_REFUSED = Counter("mlops_refused_releases", "Releases that could not be loaded, each attempt counted", ["model"])
_LOG_FAILURES = Counter("mlops_log_failures", "Records that could not be written to the prediction log")
_INFO = Gauge(
    "mlops_model_info", "1 for what a worker answers from", ["model", "version", "role"], multiprocess_mode="liveall"
)
_FAILURES = Counter(
    "mlops_scoring_failures", "Requests put to a version that it failed, whoever answered", ["model", "version", "role"]
)
_SHADOW_DROPPED = Counter("mlops_shadow_dropped_rows", "Rows that were not scored in shadow", ["model", "reason"])
_BREAKER = Gauge(
    "mlops_breaker_state",
    "0 while a version is asked, 1 while it is tried again, 2 while it is not asked",
    ["model", "version"],
    multiprocess_mode="liveall",
)
_TRIPS = Counter("mlops_breaker_trips", "How often a version was not asked any more", ["model", "version"])
_RELEASE = Gauge("mlops_model_release", "Release that a worker answers from", ["model"], multiprocess_mode="liveall")


class ModelMetrics:
    """The counters of one loaded version, bound to its labels."""

    def __init__(self, model: str, version: int, role: str, features: tuple[str, ...]):
        self.predictions = _PREDICTIONS.labels(model, str(version), role)
        self.failures = _FAILURES.labels(model, str(version), role)
        self._imputed = {name: _IMPUTED.labels(model, name) for name in features}
        self._out_of_domain = {name: _OUT_OF_DOMAIN.labels(model, name) for name in features}

    def flagged(self, imputed: tuple[str, ...], out_of_domain: tuple[str, ...]) -> None:
        for name in imputed:
            self._imputed[name].inc()
        for name in out_of_domain:
            self._out_of_domain[name].inc()


class ShadowMetrics:
    """What of one model was not scored in shadow."""

    def __init__(self, model: str) -> None:
        self._model = model

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
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, model: str, route: str, status: int, seconds: float) -> None:
        key = (model, route, status)
        children = self._children.get(key)
        if children is None:
            children = _REQUESTS.labels(model, route, str(status)), _DURATION.labels(model, route)
            self._children[key] = children
        children[0].inc()
        children[1].observe(seconds)


def count_labels(model: str, labels: int) -> None:
    """Count labels that are on record."""
    _LABELS.labels(model).inc(labels)


def count_refused(model: str) -> None:
    """Count a release that could not be loaded."""
    _REFUSED.labels(model).inc()


def count_log_failure() -> None:
    """Count a write to the log that failed."""
    _LOG_FAILURES.inc()


def show_release(model: str, release: int, loaded: Collection[Loaded], former: Collection[Loaded]) -> None:
    """Say which release a worker now answers from, and who is loaded in which role; the lines of those that went go to 0."""
    for version, role in set(former) - set(loaded):
        _INFO.labels(model, str(version), role).set(0)
    for version, role in loaded:
        _INFO.labels(model, str(version), role).set(1)
    _RELEASE.labels(model).set(release)


def forget_dead_workers() -> None:
    """Drop the gauges of workers that were killed, which nothing else does."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return
    pids = {int(file.stem.rpartition("_")[2]) for file in Path(folder).glob("gauge_live*_*.db")}
    for pid in pids:
        if not Path("/proc", str(pid)).exists() and Path("/proc").exists():
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
