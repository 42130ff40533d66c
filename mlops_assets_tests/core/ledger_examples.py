"""Entries of a ledger for tests: short to write, and drawn at random."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from hypothesis import strategies as st

from mlops_assets.core.ledger import (
    SEVERITIES,
    Acknowledged,
    Action,
    Approved,
    Decided,
    Ended,
    Entry,
    Fact,
    Frozen,
    Joined,
    Mitigated,
    Mode,
    Opened,
    Outcome,
    Refused,
    Rejected,
    Released,
    Resolved,
    Retired,
    Started,
    Thawed,
)
from mlops_assets.core.sequential import Errors, Limits, Look, Sprt
from mlops_assets.core.trials.facts import TrialBegan, TrialLooked, TrialStepped
from mlops_assets.core.trials.judging import NamedTest, Protocol, Seen, Stage

AT = datetime(2024, 3, 1, 12, tzinfo=UTC)


def entry(subject: str, fact: Fact, minutes: int = 0, **changes: Any) -> Entry:
    """An entry about model "delay" by a sensor, some minutes after `AT`."""
    return Entry(
        **{
            "model": "delay",
            "subject": subject,
            "fact": fact,
            "actor": "sensor:delay_response",
            "at": AT + timedelta(minutes=minutes),
            **changes,
        }
    )


def opened(cause: str = "feed:temp", severity: str = "warning", **changes: Any) -> Opened:
    return Opened(cause, f"{cause} is broken", severity, **changes)  # type: ignore[arg-type]


def decided(action: str = "retrain", mode: str = "auto", **changes: Any) -> Decided:
    return Decided(action, mode, "it has decayed", **changes)  # type: ignore[arg-type]


_moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
_some = st.lists(_text, max_size=3).map(tuple)
_severities = st.sampled_from(SEVERITIES)
_windows = st.none() | st.sampled_from(["2024-03-01", "2024-03-02", "2024-03-03"])
_attempts = st.integers(1, 4)

facts_of_incidents: st.SearchStrategy[Fact] = st.one_of(
    st.builds(Opened, _text, _text, _severities, _windows, st.none() | _moments, st.none() | _moments, _some),
    st.builds(Joined, _severities, _windows, _some),
    st.builds(Acknowledged, _text),
    st.builds(Mitigated, _text, st.none() | _text),
    st.builds(Resolved, _text, _windows),
)
facts_of_decisions: st.SearchStrategy[Fact] = st.one_of(
    st.builds(
        Decided,
        st.sampled_from(get_args(Action)),
        st.sampled_from(get_args(Mode)),
        _text,
        _windows,
        _some,
        _some,
        st.dictionaries(_text, _text, max_size=2),
        _text,
        _text,
    ),
    st.builds(Approved, _text),
    st.builds(Rejected, _text),
    st.builds(Started, _attempts, _text),
    st.builds(Ended, st.sampled_from(get_args(Outcome)), _attempts, _text, _text),
)
facts_of_models: st.SearchStrategy[Fact] = st.one_of(
    st.builds(Released, _attempts, _attempts, st.none() | _attempts, _text, st.booleans(), _text),
    st.builds(Refused, st.none() | _attempts, _text),
    st.builds(Frozen, _text),
    st.builds(Thawed, _text),
    st.builds(Retired, _text),
)


_PROTOCOL = Protocol(
    "shadow", (Stage("shadow", (1.0,), 10, 60.0, (NamedTest("quality", Sprt(Limits()), True),)),), "brier", None, 3.5
)
facts_of_trials: st.SearchStrategy[Fact] = st.one_of(
    st.builds(TrialBegan, _attempts, _attempts, _attempts, _text, st.just(_PROTOCOL)),
    st.builds(
        TrialLooked,
        st.just("shadow"),
        st.just(1.0),
        st.builds(Seen, st.dictionaries(_text, st.just((Errors(9, 1, 2),)), max_size=2), _attempts),
        st.dictionaries(_text, st.just(Look(9, 0.5, -0.5, "continue")), max_size=2),
        st.sampled_from(["keep looking", "promote", "dismiss"]),
        _text,
    ),
    st.builds(TrialStepped, st.sampled_from(["promote", "dismiss", "superseded"]), _attempts, _text),
)


def _entries(subjects: list[str], facts: st.SearchStrategy[Fact]) -> st.SearchStrategy[Entry]:
    return st.builds(
        Entry,
        st.sampled_from(["delay", "air_time"]),
        st.sampled_from(subjects),
        facts,
        st.sampled_from(["sensor:x", "user:ann"]),
        _moments,
        st.none() | _moments,
    )


entries: st.SearchStrategy[Entry] = st.one_of(
    _entries(["i-1", "i-2"], facts_of_incidents),
    _entries(["d-1", "d-2"], facts_of_decisions),
    _entries(["t-1", "t-2"], facts_of_trials),
    _entries(["the model"], facts_of_models),
)
