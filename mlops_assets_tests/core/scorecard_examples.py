"""Windows of live traffic for tests of the scorecard: short to write, and drawn at random."""

from datetime import timedelta
from typing import Any

import msgspec
from hypothesis import strategies as st

from mlops_assets.core.live_traffic import LiveWindow
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets_tests.core.examples import LIVE_FROM

DAY = timedelta(days=1)
CALENDAR = Windows("day", "UTC", LIVE_FROM)


def live(day: int, answered: int = 100, **changes: Any) -> LiveWindow:
    """What is said of the day so many after going live; its first request was answered as it began."""
    begin = LIVE_FROM + day * DAY
    one = LiveWindow(
        window=CALENDAR.key(begin),
        content="c",
        rows=answered,
        answered=answered,
        labelled=0,
        refused=0,
        shed=0,
        failed=0,
        imputed_rows=0,
        out_of_domain_rows=0,
        latency_p50_ms=1.0,
        latency_p99_ms=2.0,
        first_served_at=begin,
        last_served_at=begin,
        last_event_at=begin,
        last_label_observed_at=None,
    )
    return msgspec.structs.replace(one, **changes)


_counts = st.integers(0, 1000)
histories: st.SearchStrategy[list[LiveWindow]] = st.lists(
    st.builds(
        lambda answered, failed, shed, refused: {
            "answered": answered,
            "failed": failed,
            "shed": shed,
            "refused": refused,
        },
        *[_counts] * 4,
    ),
    max_size=70,
).map(lambda them: [live(day, **counts) for day, counts in enumerate(them)])
