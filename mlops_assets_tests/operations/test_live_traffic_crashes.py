"""Any order of records, any cut into segments, any replay, and death at any step: the tables are the same."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_assets.core.records import Record
from mlops_assets_tests.core.examples import LIVE_FROM
from mlops_assets_tests.operations.traffic_examples import HOUR, Traffic, in_segments
from mlops_assets_tests.stores import crash


def history(traffic: Traffic) -> list[Record]:
    """Predictions of three days, some of them asked or logged again, and labels that name them either way and are revised."""
    predictions = [traffic.prediction(number) for number in range(1, 70, 9)]
    again = [
        traffic.prediction(10, served_at=LIVE_FROM + 11 * HOUR, output=(0.9, 0.1)),
        traffic.prediction(10, served_at=LIVE_FROM + 12 * HOUR, output=(0.8, 0.2)),
        traffic.prediction(19, role="standby", version=2),
        traffic.prediction(28, id="again"),
        traffic.prediction(37, status=503, features=(), output=(), id="shed"),
        traffic.prediction(46, probe=True, id="probe"),
    ]
    labels = [
        traffic.label(1),
        traffic.label(10, 0),
        traffic.label_by_event(10, 1, revision=2),
        traffic.label(19, 1),
        traffic.label(19, 0, revision=1),
        traffic.label_by_event(28, 0),
        traffic.label_by_event(28, 1, received_at=LIVE_FROM + 90 * HOUR),
        traffic.label(55, 2.5, name="revenue"),
        traffic.label(99),
        traffic.label_by_event(46),
        traffic.label_by_event(64, event_time=LIVE_FROM - 9 * HOUR),
    ]
    return [*predictions, *again, *labels]


def expected() -> dict[str, str]:
    """The tables that the history gives in one go."""
    with tempfile.TemporaryDirectory() as folder:
        traffic = Traffic(Path(folder))
        traffic.segment(*history(traffic))
        traffic.take()
        return traffic.tables()


EXPECTED = expected()


def test_the_history_is_as_rich_as_it_should_be() -> None:
    assert list(EXPECTED) == ["2024-03-01", "2024-03-02", "2024-03-03"]
    text = "".join(EXPECTED.values())
    assert text.count("\n") == 3 + 8 + 3
    assert "probe" not in text


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_same_records_give_the_same_tables(data: st.DataObject) -> None:
    """Shuffled, cut, replayed under other names, with runs in between at any point."""
    with tempfile.TemporaryDirectory() as folder:
        traffic = Traffic(Path(folder))
        records = data.draw(st.permutations(history(traffic)))
        sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
        cut = data.draw(st.integers(0, len(records)))
        in_segments(traffic, records[:cut], sizes)
        if data.draw(st.booleans()):
            traffic.take()
        replayed = data.draw(st.lists(st.sampled_from(records), max_size=6))
        in_segments(traffic, [*records[cut:], *replayed], sizes)
        traffic.take()
        assert traffic.tables() == EXPECTED
        assert traffic.take() == {}


def prepared(folder: Path) -> Traffic:
    """Half of the history is taken, the other half waits; among it labels for the first half, and the reverse."""
    traffic = Traffic(folder)
    records = history(traffic)
    traffic.segment(*records[::2])
    traffic.take()
    in_segments(traffic, records[1::2], [5, 3])
    return traffic


def test_death_at_any_step_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What was written and not yet put in its place is as good as not written, so only these steps count.
    monkeypatch.setattr(crash, "STEPS", ("replace", "rename", "unlink"))
    made: list[Traffic] = []

    def prepare() -> Callable[[], object]:
        made.append(prepared(tmp_path / str(len(made))))
        return made[-1].take

    deaths = 0
    for deaths in crash.crashes(prepare):
        traffic = made[-1]
        traffic.take()
        assert traffic.tables() == EXPECTED, f"after death at step {deaths}"
        assert traffic.take() == {}
    assert deaths > 10
    assert made[-1].tables() == EXPECTED


_TAKE = """
import sys
from pathlib import Path
from mlops_assets_tests.operations.traffic_examples import Traffic
traffic = Traffic(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    traffic.take()
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_over_and_over_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """A real process is killed as soon as it has written a file, another as soon as it has written two, and so on."""
    traffic = Traffic(tmp_path)
    records = history(traffic)
    in_segments(traffic, records, [2, 3, 1])
    killed = 0
    while True:
        with subprocess.Popen(
            [sys.executable, "-c", _TAKE, str(tmp_path), "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            before = _files(tmp_path)
            process.stdin.write("go\n")
            process.stdin.flush()
            while process.poll() is None and len(_files(tmp_path) - before) <= killed % 7:
                pass
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
            ended_well = process.stdout.read().startswith("done")
        if ended_well or killed == 12:
            break
    traffic.take()
    assert killed > 3
    assert traffic.tables() == EXPECTED
    assert traffic.take() == {}


def _files(folder: Path) -> set[str]:
    return {os.path.join(path, name) for path, _, names in os.walk(folder / "lake") for name in names}
