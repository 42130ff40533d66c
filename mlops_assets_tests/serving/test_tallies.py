"""What is counted in a worker, as Prometheus sees it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from mlops_assets.serving.agreement import count_agreeing
from mlops_assets.serving.tallies import distributed, tallied
from mlops_assets_tests.serving.factory import small_model

BOUNDS = (0.1, 1.0, 10.0)


@given(
    values=st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0, 3.0, 10.0, 11.0]), max_size=30), often=st.integers(1, 5)
)
def test_what_is_flushed_is_what_prometheus_would_have_observed(values: list[float], often: int):
    """Holds too what is used of `prometheus_client` that is not public: where a histogram keeps its buckets and its sum."""
    registry, ours = CollectorRegistry(), CollectorRegistry()
    theirs = Histogram("t", "told", ["a"], buckets=BOUNDS, registry=registry).labels("x")
    family = distributed(Histogram("t", "told", ["a"], buckets=BOUNDS, registry=ours))
    distribution = family.labels("x")

    for number, value in enumerate(values):
        theirs.observe(value)
        distribution.observe(value)
        if number % often == 0:
            family.flush()
    family.flush()
    family.flush()

    def lines(told: CollectorRegistry) -> list[tuple[str, float]]:
        samples = [line.split() for line in generate_latest(told).decode().splitlines() if not line.startswith("#")]
        return [(name, round(float(value), 9)) for name, value in samples if "_created" not in name]

    assert lines(ours) == lines(registry)


def test_a_counter_has_nothing_twice_and_one_member_for_a_label():
    registry = CollectorRegistry()
    family = tallied(Counter("requests", "told", ["model"], registry=registry))
    family.labels("a").inc()
    family.labels("a").inc(2)
    assert registry.get_sample_value("requests_total", {"model": "a"}) == 0
    family.flush()
    family.flush()
    assert registry.get_sample_value("requests_total", {"model": "a"}) == 3


def test_several_processes_add_up_in_prometheus_files(tmp_path: Path):
    """The multiprocess mode keeps the same buckets in other objects."""
    program = """
from mlops_assets.serving.metrics import RequestMetrics
from mlops_assets.serving.tallies import flush_tallies
requests = RequestMetrics()
for number in range(50):
    requests.observe("delay", "predict", 200, 60e-6 if number % 2 else 3.0)
    if number % 7 == 0:
        flush_tallies()
flush_tallies()
"""
    read = """
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
registry = CollectorRegistry()
MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
    told = subprocess.run(
        [sys.executable, "-c", read], env=environment, check=True, capture_output=True, text=True, timeout=60
    ).stdout

    assert 'mlops_requests_total{model="delay",route="predict",status="200"} 100.0' in told
    assert 'mlops_request_duration_seconds_bucket{le="0.0001",model="delay",route="predict"} 50.0' in told
    assert 'mlops_request_duration_seconds_bucket{le="5.0",model="delay",route="predict"} 100.0' in told
    assert 'mlops_request_duration_seconds_count{model="delay",route="predict"} 100.0' in told


@pytest.mark.parametrize(
    ("task", "one", "other", "agreeing"),
    [
        ("binary", [[0.7, 0.3], [0.5, 0.5]], [[0.65, 0.35], [0.61, 0.39]], 1),
        ("multiclass", [[0.2, 0.5, 0.3], [0.1, 0.2, 0.7]], [[0.3, 0.4, 0.3], [0.7, 0.2, 0.1]], 1),
        ("regression", [[10.0], [10.0], [0.0], [-4.0]], [[10.9], [12.0], [0.0], [4.0]], 2),
    ],
)
def test_versions_agree_by_class_or_within_a_tenth(
    task: str, one: list[list[float]], other: list[list[float]], agreeing: int
):
    assert count_agreeing(small_model(task=task).manifest, one, other) == agreeing  # type: ignore[arg-type]
