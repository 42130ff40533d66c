"""What the service counts and times, exposed through BentoML's `/metrics`.

Every label is bounded: models that are loaded, routes that exist, statuses that we send. Children are bound once, since looking
one up costs more than counting. In a server with several workers the values of all are summed by `prometheus_client`'s
multiprocess mode, which BentoML sets up; gauges carry the worker's pid.
"""

import os
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.multiprocess import mark_process_dead

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
_RELEASE = Gauge("mlops_model_release", "Release that a worker answers from", ["model"], multiprocess_mode="liveall")


class ModelMetrics:
    """The counters of one loaded version, bound to its labels."""

    def __init__(self, model: str, version: int, role: str, features: tuple[str, ...]):
        self.predictions = _PREDICTIONS.labels(model, str(version), role)
        self._imputed = {name: _IMPUTED.labels(model, name) for name in features}
        self._out_of_domain = {name: _OUT_OF_DOMAIN.labels(model, name) for name in features}

    def flagged(self, imputed: tuple[str, ...], out_of_domain: tuple[str, ...]) -> None:
        for name in imputed:
            self._imputed[name].inc()
        for name in out_of_domain:
            self._out_of_domain[name].inc()


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


def show_release(model: str, release: int, version: int, former_version: int | None) -> None:
    """Say which release a worker now answers from; the former version's line goes to 0."""
    if former_version is not None and former_version != version:
        _INFO.labels(model, str(former_version), "champion").set(0)
    _INFO.labels(model, str(version), "champion").set(1)
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
