"""Every figure of the scorecard: what it counts, what it leaves out, and that it never flatters."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.ledger import (
    Approved,
    Ended,
    Entry,
    Fact,
    Joined,
    Mitigated,
    Outcome,
    Rejected,
    Released,
    Resolved,
    Started,
)
from mlops_assets.core.ledger_fold import fold
from mlops_assets.core.live_traffic import LiveWindow
from mlops_assets.core.scorecard import Evidence, scorecard
from mlops_assets.core.scorecard_values import Figure, Scorecard, Target
from mlops_assets_tests.core.examples import LIVE_FROM
from mlops_assets_tests.core.ledger_examples import AT, decided, entries, entry, opened
from mlops_assets_tests.core.scorecard_examples import CALENDAR, DAY, histories, live

MINUTE = timedelta(minutes=1)
LATER = AT + 100 * MINUTE
TIMES = ("time to detect", "time to mitigate", "time to resolve")


def known(*them: Entry, windows: list[LiveWindow] | None = None, model: str = "delay") -> Evidence:
    return Evidence(fold(model, them), windows or [], CALENDAR)


def figure(name: str, *evidence: Evidence, **period: Any) -> Figure:
    """The figure of all models together."""
    return next(one for one in scorecard(evidence, LATER, **period).overall.figures if one.name == name)


def figures(card: Scorecard) -> dict[tuple[str, str], Figure]:
    return {(one.model, two.name): two for one in (card.overall, *card.models) for two in one.figures}


def incident(name: str, *facts: Fact, **changes: Any) -> list[Entry]:
    """An incident whose facts come a minute after another, the first at `AT`."""
    return [entry(name, fact, minute, **changes) for minute, fact in enumerate(facts)]


def decision(name: str, *facts: Fact, **changes: Any) -> list[Entry]:
    return incident(name, *facts, **changes)


def release(former: int | None, strategy: str, version: int = 9, **changes: Any) -> Entry:
    return entry("delay", Released(2, version, former, strategy, True, "better"), **changes)


class TestAvailability:
    def test_what_was_not_answered_counts_and_what_was_not_valid_does_not(self) -> None:
        one = figure("availability", known(windows=[live(0, 997), live(1, 0, failed=1, shed=2, refused=50)]))
        assert (one.value, one.events, one.met) == (0.997, 1000, False)
        assert one.note == "50 that were not valid do not count"

    @pytest.mark.parametrize(("failed", "met"), [(4, True), (5, True), (6, False)])
    def test_its_target_is_included(self, failed: int, met: bool) -> None:
        assert figure("availability", known(windows=[live(0, 10_000 - failed, failed=failed)])).met is met

    def test_nothing_is_said_of_no_traffic(self) -> None:
        one = figure("availability", known(windows=[live(0, 0, refused=3)]))
        assert (one.value, one.events, one.met) == (None, 0, None)


class TestViolations:
    def test_incidents_of_feeds_and_of_missing_traffic_a_month(self) -> None:
        causes = ("feed:temp", "feed:seats", "traffic", "drift", "performance", "service", "gates", "monitor:idle")
        them = [entry(f"i-{cause}", opened(cause)) for cause in causes]
        one = figure("data-health violations", known(*them, windows=[live(day) for day in range(60)]))
        assert (one.value, one.events, one.met) == (1.5, 60, False)

    def test_repeated_alarms_are_one(self) -> None:
        them = incident("i-1", opened(), Joined("critical", "2024-03-02"), Joined("critical", "2024-03-03"))
        one = figure("data-health violations", known(*them, windows=[live(day) for day in range(31)]))
        assert one.met is True
        assert one.note == "1 in 31 days of windows"

    def test_a_part_of_a_month_without_any_proves_nothing(self) -> None:
        one = figure("data-health violations", known(windows=[live(day) for day in range(29)]))
        assert (one.value, one.met) == (0.0, None)
        assert "not a month yet" in one.note

    def test_one_is_too_many_for_the_month_that_has_begun(self) -> None:
        one = figure("data-health violations", known(entry("i-1", opened()), windows=[live(0)]))
        assert (one.value, one.met) == (30.0, False)

    def test_nothing_is_said_without_windows(self) -> None:
        one = figure("data-health violations", known(entry("i-1", opened())))
        assert (one.value, one.met, one.note) == (None, None, "1 in windows that are not known")

    def test_that_of_all_models_is_for_each_of_them(self) -> None:
        month = [live(day) for day in range(30)]
        calm = known(windows=month, model="air_time")
        assert figure("data-health violations", known(entry("i-1", opened()), windows=month), calm).value == 0.5


class TestTimes:
    def test_from_the_first_bad_row_by_the_wall_clock(self) -> None:
        first = AT - 2 * MINUTE
        evidence = known(*incident("i-1", opened(first_bad_at=first), Mitigated("imputed"), Resolved("it is back")))
        assert [figure(name, evidence).value for name in TIMES] == [120, 180, 240]
        assert [figure(name, evidence).met for name in TIMES] == [True, True, None]

    def test_mean_median_and_worst_with_its_incident(self) -> None:
        them = [entry(f"i-{n}", opened(f"feed:{n}", first_bad_at=AT - n * MINUTE)) for n in (1, 2, 9)]
        one = figure("time to detect", known(*them))
        assert (one.value, one.median, one.worst, one.worst_incident) == (240, 120, 540, "i-9")
        assert (one.events, one.met) == (3, True)

    def test_where_the_first_bad_row_is_not_known_the_first_answer_of_its_window_stands_for_it(self) -> None:
        served = live(0, first_served_at=AT - 7 * MINUTE)
        one = figure("time to detect", known(entry("i-1", opened(window=served.window)), windows=[served]))
        assert (one.value, one.note, one.met) == (420, "1 from the first answer of their window on", False)
        told = entry("i-1", opened(window=served.window, first_bad_at=served.first_served_at))
        assert figure("time to detect", known(told, windows=[served])) == one

    def test_where_nothing_is_known_nothing_is_said(self) -> None:
        one = figure("time to detect", known(entry("i-1", opened())))
        assert (one.value, one.events, one.note) == (None, 0, "of 1 more it is not known")

    def test_a_clock_that_went_back_says_nothing(self) -> None:
        one = figure("time to detect", known(entry("i-1", opened(first_bad_at=LATER))))
        assert (one.value, one.events) == (None, 0)

    def test_what_lasts_is_counted_as_long_as_it_has_lasted(self) -> None:
        one = figure("time to mitigate", known(entry("i-1", opened(first_bad_at=AT))))
        assert (one.value, one.met) == (6000, False)
        assert one.note == "1 not over, counted as long as they have lasted"

    def test_what_lasts_meets_no_target_yet(self) -> None:
        one = figure("time to mitigate", known(entry("i-1", opened(first_bad_at=LATER - MINUTE), 99)))
        assert (one.value, one.met) == (60, None)

    def test_what_was_resolved_without_help_was_mitigated_by_then(self) -> None:
        evidence = known(*incident("i-1", opened(first_bad_at=AT), Resolved("it is back")))
        assert figure("time to mitigate", evidence).value == figure("time to resolve", evidence).value == 60

    @pytest.mark.parametrize("cause", ["drift", "gates", "run:delay_lifecycle", "monitor:idle"])
    def test_what_harms_no_answer_has_no_part_in_it(self, cause: str) -> None:
        one = figure("time to detect", known(entry("i-1", opened(cause, first_bad_at=AT - MINUTE))))
        assert (one.value, one.events, one.note) == (None, 0, "")

    def test_by_the_events_clock_in_windows(self) -> None:
        them = [
            entry("i-1", opened(began=LIVE_FROM), now=LIVE_FROM + DAY),
            entry("i-1", Resolved("it is back"), 1, now=LIVE_FROM + 4 * DAY),
        ]
        assert figure("time to detect, event time", known(*them)).value == 1.0
        assert figure("time to resolve, event time", known(*them)).value == 4.0

    def test_by_the_events_clock_what_lasts_has_lasted_until_the_newest_window(self) -> None:
        them = [entry("i-1", opened(began=LIVE_FROM), now=LIVE_FROM + DAY)]
        one = figure("time to resolve, event time", known(*them, windows=[live(day) for day in range(6)]))
        assert (one.value, one.note) == (6.0, "1 not over, counted as long as they have lasted")
        assert figure("time to detect, event time", known(entry("i-1", opened(began=LIVE_FROM)))).value is None

    def test_the_clocks_are_never_mixed(self) -> None:
        """The events of a replay are years old; the wall clock knows of minutes."""
        them = [entry("i-1", opened(began=LIVE_FROM, first_bad_at=AT - MINUTE), now=LIVE_FROM + DAY)]
        assert figure("time to detect", known(*them)).value == 60
        assert figure("time to detect, event time", known(*them)).value == 1.0


class TestReleases:
    def test_a_version_put_in_service_at_once_is_not_safe(self) -> None:
        changes = [
            release(1, strategy)
            for strategy in (
                "shadow",
                "canary",
                "shadow-then-canary",
                "rollback",
                "reversal",
                "immediate",
                "forced",
                "recovery",
            )
        ]
        one = figure("releases by a safe strategy", known(*changes))
        assert (one.value, one.events, one.met) == (0.625, 8, False)
        assert one.note == "2 of them back to a version that has served; not safe: forced, immediate, recovery"

    def test_the_first_release_and_what_changes_no_version_are_left_out(self) -> None:
        one = figure("releases by a safe strategy", known(release(None, "immediate"), release(9, "immediate")))
        assert (one.value, one.events, one.met) == (None, 0, None)


class TestRemediations:
    @pytest.mark.parametrize("action", ["retrain", "roll back", "fall back"])
    def test_what_was_done_without_a_person(self, action: str) -> None:
        one = figure("automated remediations", known(*decision("d-1", decided(action), Started(1), Ended("done", 1))))
        assert (one.value, one.events, one.met) == (1.0, 1, True)

    @pytest.mark.parametrize(
        "them",
        [
            decision("d-1", decided(mode="approve"), Approved("yes"), Started(1), Ended("done", 1)),
            decision("d-1", decided(mode="approve"), Rejected("no")),
            decision("d-1", decided(mode="approve")),
            decision("d-1", decided("roll back"), Started(1), Ended("done", 1), actor="user:ann"),
            decision("d-1", decided("freeze"), Started(1), Ended("done", 1)),
            decision("d-1", decided("escalate")) + decision("d-2", decided("escalate")),
        ],
        ids=["approved", "rejected", "waits", "by hand", "frozen", "escalated again and again"],
    )
    def test_what_needed_a_person(self, them: list[Entry]) -> None:
        one = figure("automated remediations", known(*them))
        assert (one.value, one.events, one.met, one.note) == (0.0, 1, False, "1 needed a person")

    @pytest.mark.parametrize(
        ("outcome", "value", "note"),
        [
            ("abandoned", 0.0, "1 not done"),
            ("refused", None, "1 that kept the champion do not count"),
            ("unchanged", None, "1 that kept the champion do not count"),
            ("failed", None, "1 not over"),
        ],
    )
    def test_what_was_not_done(self, outcome: Outcome, value: float | None, note: str) -> None:
        one = figure("automated remediations", known(*decision("d-1", decided(), Started(1), Ended(outcome, 1))))
        assert (one.value, one.note) == (value, note)

    @pytest.mark.parametrize("action", ["none", "observe", "alert", "impute"])
    def test_what_asked_for_no_work(self, action: str) -> None:
        one = figure("automated remediations", known(entry("d-1", decided(action))))
        assert (one.value, one.events, one.note) == (None, 0, "")

    def test_four_of_five_are_not_enough(self) -> None:
        them = [line for n in range(4) for line in decision(f"d-{n}", decided(), Ended("done", 1))]
        one = figure("automated remediations", known(*them, *decision("d-5", decided(), Ended("abandoned", 1))))
        assert (one.value, one.met) == (0.8, False)


class TestPeriod:
    def test_what_is_in_it_by_event_time(self) -> None:
        windows = [live(day) for day in range(40)]
        them = [entry("i-1", opened(began=LIVE_FROM)), entry("i-2", opened("traffic", began=LIVE_FROM + 35 * DAY))]
        period = {"since": LIVE_FROM + 10 * DAY, "until": LIVE_FROM + 30 * DAY}
        assert figure("availability", known(*them, windows=windows), **period).events == 2000
        assert figure("data-health violations", known(*them, windows=windows), **period).value == 0
        assert figure("data-health violations", known(*them, windows=windows), since=period["until"]).value == 3.0

    def test_what_has_no_event_time_is_left_out_and_told(self) -> None:
        them = (entry("i-1", opened("service")), entry("d-1", decided()), release(1, "immediate", now=AT))
        card = scorecard([known(*them)], LATER, since=LIVE_FROM)
        assert (card.overall.undated, card.models[0].undated) == (2, 2)
        assert scorecard([known(*them)], LATER).overall.undated == 0


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target("<", 1), [True, False, False]),
        (Target(">=", 1), [False, True, True]),
        (Target(">", 1), [False, False, True]),
    ],
)
def test_targets(target: Target, met: list[bool]) -> None:
    assert [target.is_met_by(value) for value in (0.9, 1, 1.1)] == met


lines = st.lists(entries, max_size=30)


@given(lines, histories)
def test_no_figure_without_events_and_no_target_met_without_a_figure(
    them: list[Entry], windows: list[LiveWindow]
) -> None:
    for one in figures(scorecard([known(*them, windows=windows)], LATER)).values():
        assert one.events >= 0
        if one.value is None:
            assert (one.events, one.met, one.worst) == (0, None, None)
            continue
        assert one.events > 0
        assert one.value >= 0
        if one.unit == "share":
            assert one.value <= 1
        if one.worst is not None and one.median is not None:
            assert one.median <= one.worst
            assert one.value <= one.worst * (1 + 1e-9)
        if one.met:
            assert one.target is not None
            assert one.target.is_met_by(one.value)


@given(lines, lines, histories, histories)
def test_all_models_together_pool_their_events(
    first: list[Entry], second: list[Entry], some: list[LiveWindow], others: list[LiveWindow]
) -> None:
    one, other = known(*first, windows=some), known(*second, windows=others, model="air_time")
    card = scorecard([one, other], LATER)
    for whole, *parts in zip(card.overall.figures, *(model.figures for model in card.models), strict=True):
        assert whole.events == sum(part.events for part in parts)
        values = [part.value for part in parts if part.value is not None]
        assert (whole.value is None) == (not values)
        if whole.value is not None:
            assert min(values) * (1 - 1e-9) <= whole.value <= max(values) * (1 + 1e-9)
    turned = scorecard([other, one], LATER)
    assert turned.overall == card.overall
    assert turned.models == card.models[::-1]


@given(lines, histories, st.integers(-5, 80))
def test_two_periods_hold_what_the_whole_holds(them: list[Entry], windows: list[LiveWindow], day: int) -> None:
    evidence, cut = known(*them, windows=windows), LIVE_FROM + day * DAY
    whole, before, after = (
        figures(scorecard([evidence], LATER, **period)) for period in ({}, {"until": cut}, {"since": cut})
    )
    for key in ((model, name) for model, name in whole if name in ("availability", "data-health violations")):
        assert whole[key].events == before[key].events + after[key].events


@given(lines, st.integers(0, 10**6))
def test_one_more_long_incident_shortens_nothing(them: list[Entry], extra: int) -> None:
    before = figures(scorecard([known(*them)], LATER))
    for name in TIMES:
        worst = before["delay", name].worst or 0
        first_bad_at = LATER - timedelta(seconds=worst + extra)
        more = known(*them, entry("i-9", opened("service", first_bad_at=first_bad_at), 100))
        after = figures(scorecard([more], LATER))["delay", name]
        assert (after.value or 0) * (1 + 1e-9) >= (before["delay", name].value or 0)
        assert (after.worst or 0) * (1 + 1e-9) >= worst


@given(lines, histories)
def test_it_reads_back_from_json(them: list[Entry], windows: list[LiveWindow]) -> None:
    card = scorecard([known(*them, windows=windows)], LATER, since=LIVE_FROM)
    assert msgspec.json.decode(msgspec.json.encode(card), type=Scorecard) == card
