"""Each window is asked for once for each content, whatever happened to earlier runs."""

from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.monitoring.requests import MAX_ATTEMPTS, MOST_WINDOWS, PastRun, plan_requests
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets_tests.core.examples import make_spec

WINDOWS = Windows.of(make_spec())
DAYS = tuple(WINDOWS.shift(WINDOWS.first, step) for step in range(8))


def days(*numbers: int, content: str = "x") -> dict[str, str]:
    return {DAYS[number]: content for number in numbers}


def test_nothing_stale_nothing_asked() -> None:
    plan = plan_requests(WINDOWS, {}, days(0, 1), [PastRun(DAYS[0], DAYS[1], "x", succeeded=True)])
    assert (plan.requests, plan.given_up, plan.due) == ((), (), ())


def test_stretches_are_requests() -> None:
    plan = plan_requests(WINDOWS, days(0, 1, 3, 6, 7), {}, [])
    assert [(one.first, one.last) for one in plan.requests] == [
        (DAYS[0], DAYS[1]),
        (DAYS[3], DAYS[3]),
        (DAYS[6], DAYS[7]),
    ]


def test_the_same_content_is_the_same_request_and_another_is_not() -> None:
    [first] = plan_requests(WINDOWS, days(0, 1), {}, []).requests
    assert plan_requests(WINDOWS, days(1, 0), days(5), []).requests == (first,)
    [other] = plan_requests(WINDOWS, days(0, 1, content="y"), {}, []).requests
    assert other.content != first.content


def test_a_run_of_another_calendar_says_nothing() -> None:
    hourly = PastRun("2024-03-01-00:00", "2024-03-01-05:00", "x", succeeded=False)
    assert plan_requests(WINDOWS, {}, {}, [hourly]).due == ()


def test_a_newer_success_settles_a_failure() -> None:
    failed, mended = PastRun(DAYS[0], DAYS[3], "", succeeded=False), PastRun(DAYS[1], DAYS[1], "", succeeded=True)
    plan = plan_requests(WINDOWS, {}, days(0, 1, 2, 3), [mended, failed])
    assert [(one.first, one.last) for one in plan.requests] == [(DAYS[0], DAYS[0]), (DAYS[2], DAYS[3])]


@given(
    stale=st.sets(st.integers(0, 7)),
    past=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3), st.booleans()), max_size=6),
)
def test_every_due_window_is_in_one_request(stale: set[int], past: list[tuple[int, int, bool]]) -> None:
    runs = [PastRun(DAYS[first], DAYS[min(7, first + more)], "", ok) for first, more, ok in past]
    plan = plan_requests(WINDOWS, days(*stale), days(*range(8)), runs)
    asked = [window for one in plan.due for window in WINDOWS.between(one.first, one.last)]
    newest = {
        day: next((run.succeeded for run in runs if run.first <= DAYS[day] <= run.last), True) for day in range(8)
    }
    assert asked == sorted({DAYS[day] for day in stale} | {DAYS[day] for day, ok in newest.items() if not ok})


@given(st.lists(st.booleans(), max_size=8))
def test_a_content_is_tried_three_times_at_most(outcomes: list[bool]) -> None:
    past: list[PastRun] = []
    attempts = []
    for succeeded in outcomes:
        plan = plan_requests(WINDOWS, {} if past and past[0].succeeded else days(2), days(2), past)
        for one in plan.requests:
            attempts.append(one.attempt)
            past.insert(0, PastRun(one.first, one.last, one.content, succeeded))
    assert attempts == list(range(1, len(attempts) + 1))
    assert len(attempts) <= MAX_ATTEMPTS


def test_a_long_backlog_is_several_runs_of_bounded_length() -> None:
    """A run over everything once took longer than a run may, and was given up."""
    spec = make_spec(monitoring={"window": "hour"})
    hours = Windows.of(spec)
    stale = {hours.shift(hours.first, step): "x" for step in range(2 * MOST_WINDOWS + 100)}
    plan = plan_requests(hours, stale, {}, [])
    lengths = [len(list(hours.between(one.first, one.last))) for one in plan.requests]
    assert lengths == [MOST_WINDOWS, MOST_WINDOWS, 100]
