"""A monitor that stops, fails, falls behind or is fed nothing is reported; one that works is not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from mlops_assets.core.live_traffic import LiveWindow
from mlops_assets.core.monitoring.watch import Heartbeat, told, watch
from mlops_assets_tests.core.examples import LIVE_FROM, make_spec

NOW = datetime(2024, 3, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ALIVE = Heartbeat(NOW - timedelta(seconds=40))
FINISHED = {"until": "2024-03-20T00:00:00Z"}


def live(day: int, answered: int = 100, labelled: int = 90, **changes: Any) -> LiveWindow:
    """The table of the day so many after going live; its last request was served half an hour before its end."""
    begin = LIVE_FROM + day * DAY
    last = begin + DAY - timedelta(minutes=30)
    one = LiveWindow(
        window=begin.strftime("%Y-%m-%d"),
        content="c",
        rows=answered,
        answered=answered,
        labelled=labelled,
        refused=0,
        shed=0,
        failed=0,
        imputed_rows=0,
        out_of_domain_rows=0,
        latency_p50_ms=1.0,
        latency_p99_ms=2.0,
        first_served_at=begin,
        last_served_at=last,
        last_event_at=last,
        last_label_observed_at=last,
    )
    return msgspec.structs.replace(one, **changes)


FED = [live(day) for day in range(19)]


def troubles(heartbeat: Heartbeat | None, *, unread: timedelta | None = None, **changes: Any) -> list[str]:
    windows = changes.pop("windows", FED)
    unread_since = None if unread is None else NOW - unread
    return [sign.trouble for sign in watch(make_spec(**changes), heartbeat, windows, NOW, unread_since)]


def test_a_monitor_that_works_gives_no_sign() -> None:
    assert troubles(ALIVE) == []
    assert troubles(ALIVE, unread=timedelta(minutes=20)) == []
    assert told(()) == "the monitor looks at what comes in"


def test_nothing_is_wrong_before_anything_was_asked() -> None:
    assert troubles(None, windows=[]) == []
    assert troubles(ALIVE, windows=[]) == []


def test_silence_of_five_minutes_is_a_stop() -> None:
    assert troubles(Heartbeat(NOW - timedelta(minutes=5))) == []
    [sign] = watch(make_spec(), Heartbeat(NOW - timedelta(minutes=6)), FED, NOW)
    assert (sign.trouble, sign.grave) == ("stopped", True)
    assert sign.reason == "the monitor last looked at 2024-03-20 11:54:00Z: is its sensor on, and the daemon?"


def test_a_monitor_that_never_looked_is_reported_when_traffic_waits() -> None:
    assert troubles(None) == []
    assert troubles(None, unread=timedelta(minutes=4)) == []
    assert troubles(None, unread=timedelta(minutes=6)) == ["never looked"]


def test_a_look_that_fails_is_reported_at_once() -> None:
    [sign] = watch(make_spec(), Heartbeat(NOW, "LogError: disk full"), FED, NOW)
    assert (sign.trouble, sign.reason) == ("failing", "the monitor fails: LogError: disk full")


def test_windows_that_wait_too_long_are_named() -> None:
    since = NOW - timedelta(hours=2, minutes=1)
    beat = msgspec.structs.replace(ALIVE, waiting={"2024-03-02": since, "2024-03-03": since, "2024-03-04": NOW})
    [sign] = watch(make_spec(), beat, FED, NOW)
    assert sign.trouble == "waiting"
    assert sign.reason.startswith("2 windows (2024-03-02 to 2024-03-03) wait to be looked at since")
    assert not sign.grave


def test_windows_that_were_given_up_are_grave_and_told_once() -> None:
    beat = msgspec.structs.replace(ALIVE, waiting={"2024-03-02": NOW - DAY}, given_up=("2024-03-02",))
    [sign] = watch(make_spec(), beat, FED, NOW)
    assert (sign.trouble, sign.grave) == ("given up", True)


def test_waiting_goes_on_since_it_began() -> None:
    later = NOW + DAY
    beat = ALIVE.after(NOW, ["a", "b"], [], "b").after(later, ["b", "c"], ["b"], "c")
    assert beat == Heartbeat(later, None, {"b": NOW, "c": later}, ("b",), "c")


@pytest.mark.parametrize(
    ("labelled", "expected"),
    [
        ([90] * 19, []),
        ([90] * 14 + [0] * 3 + [0, 0], ["labels"]),  # the last two days are not old enough to count
        ([90] * 16 + [90] + [0, 0], []),
        ([0] * 14 + [50] * 3 + [0, 0], []),
        ([0] * 19, ["labels"]),
    ],
)
def test_a_label_feed_that_dries_up_is_reported(labelled: list[int], expected: list[str]) -> None:
    windows = [live(day, labelled=count) for day, count in enumerate(labelled)]
    assert troubles(ALIVE, windows=windows) == expected
    assert troubles(ALIVE, windows=windows, monitoring=FINISHED) == expected


def test_labels_are_not_missed_before_their_delay() -> None:
    windows = [live(day, labelled=0) for day in range(19)]
    assert troubles(ALIVE, windows=windows, label={"column": "late", "delay": "18d"}) == []


def test_windows_in_which_nothing_came_ask_for_no_labels() -> None:
    empty = [
        live(day, 0, 0, last_event_at=None, last_served_at=None, last_label_observed_at=None) for day in range(10, 17)
    ]
    assert troubles(ALIVE, windows=[*FED[:10], *empty, *FED[17:]]) == []


def test_traffic_that_stays_away_for_three_windows_is_reported() -> None:
    quiet = FED[:16]
    assert troubles(ALIVE, windows=FED[:17]) == []
    assert troubles(ALIVE, windows=quiet) == ["traffic"]
    assert troubles(ALIVE, windows=quiet, monitoring=FINISHED) == []
