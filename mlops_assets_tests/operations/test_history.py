"""What a model's past is: the source before it went live, and afterwards the answers whose labels have come in."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from mlops_assets.core.history import AS_OF, DATA_HASH
from mlops_assets.core.schema import validate
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.history import History, read_history
from mlops_assets.stores.prediction_log import LogWriter
from mlops_assets_tests.core.examples import LIVE_FROM, make_frame, make_spec
from mlops_assets_tests.operations.traffic_examples import FEATURES, HOUR, Traffic
from mlops_assets_tests.stores.test_bundles import FILES, MANIFEST

SOURCE_ROWS = 30


class Past:
    """A home with a source table whose rows reach over the time of going live, and a log to write to."""

    def __init__(self, folder: Path) -> None:
        self.traffic = Traffic(folder / "home")
        self.stores = self.traffic.stores
        self.table = folder / "flights.parquet"
        self.write_source()
        self.log = LogWriter(self.stores.home.prediction_log, "worker-1")

    def write_source(self, **columns: Any) -> None:
        at = pd.Series([LIVE_FROM + (n - 20) * HOUR for n in range(SOURCE_ROWS)], dtype="datetime64[us, UTC]")
        make_frame(SOURCE_ROWS, at=at).assign(**columns).to_parquet(self.table)

    def spec(self, **changes: Any) -> ModelSpec:
        return make_spec(source={"table": str(self.table)}, **changes)

    def answered(self, number: int, **changes: Any) -> None:
        """Request `r<number>` for entity `E<number>` at `number` hours after going live."""
        self.log.append([self.traffic.prediction(number, **changes)])

    def labelled(self, number: int, value: Any = 1, observed: int | None = None, **changes: Any) -> None:
        """The label of request `r<number>`, observed at `observed` hours after going live, or an hour after the event."""
        self.log.append([self.traffic.label(number, value, observed, **changes)])

    def read(self, hours: int | None = None, **changes: Any) -> History:
        """The history at `hours` after going live."""
        self.log.seal()
        return read_history(self.spec(**changes), self.stores, None if hours is None else LIVE_FROM + hours * HOUR)

    def live(self, hours: int, **changes: Any) -> dict[str, Any]:
        """Labels by entity of the logged rows known at `hours` after going live."""
        frame = self.read(hours, **changes).frame
        live = frame[frame["flight"].str.startswith("E")]
        return dict(zip(live["flight"], live["late"], strict=True))


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    past = Past(tmp_path)
    yield past
    past.log.close()


def test_before_going_live_the_past_is_the_source(past: Past) -> None:
    history = past.read()
    assert (history.as_of, history.source_rows, history.logged_rows) == (LIVE_FROM, 20, 0)
    assert history.frame["at"].max() == LIVE_FROM - HOUR
    assert history.frame["late"].isna().sum() == 1  # that of the last hour: a label takes two
    assert history.frame.attrs == {AS_OF: LIVE_FROM.isoformat(), DATA_HASH: history.data_hash}


def test_the_source_is_not_read_beyond_going_live(past: Past) -> None:
    assert past.read(hours=9).source_rows == 20
    assert past.read(hours=-10).source_rows == 10


def test_logged_rows_count_from_the_moment_their_label_was_observed(past: Past) -> None:
    past.answered(1)
    past.answered(2)
    past.answered(3)
    past.labelled(1, 1)
    past.labelled(2, 0, observed=5)
    assert past.live(1) == {}
    assert past.live(2) == {"E1": 1}
    assert past.live(4) == {"E1": 1}
    assert past.live(5) == {"E1": 1, "E2": 0}
    assert past.read().as_of == LIVE_FROM + 5 * HOUR


def test_a_logged_row_is_a_row_of_the_source(past: Past) -> None:
    past.answered(1)
    past.labelled(1)
    validation = validate(past.spec(), past.read().frame)
    assert (len(validation.valid), len(validation.quarantine)) == (21, 0)
    row = validation.valid.iloc[-1]
    assert row[["temp", "seats", "night", "origin", "flight", "late"]].tolist() == [11.0, 100.0, 1.0, "EWR", "E1", 1]
    assert row["carrier"] is None
    assert row["at"] == pd.Timestamp(LIVE_FROM + HOUR)


@pytest.mark.parametrize("kind", ["bool", "float64", "object"])
def test_source_and_log_may_hold_the_label_in_different_types(past: Past, kind: str) -> None:
    """True and false of the source and 1 and 0 of the log once became four classes on their way through the lake."""
    past.write_source(late=pd.Series([n % 2 for n in range(SOURCE_ROWS)]).astype(kind))
    for number in range(4):
        past.answered(number)
        past.labelled(number, number % 2)
    unlabelled_yet = {
        "column": "late",
        "delay": "9h",
    }  # so that the source has labels to blank, and its column turns to objects
    past.stores.lake.write_table("delay", "raw_data", past.read(label=unlabelled_yet).frame)
    validation = validate(past.spec(), past.stores.lake.read_table("delay", "raw_data"))
    assert set(validation.valid["late"].dropna()) == {0, 1}
    assert len(validation.valid) == 24


def test_source_times_may_be_text(past: Past) -> None:
    past.write_source(at=[(LIVE_FROM + (n - 20) * HOUR).isoformat() for n in range(SOURCE_ROWS)])
    past.answered(1)
    past.labelled(1)
    past.stores.lake.write_table("delay", "raw_data", past.read().frame)
    validation = validate(past.spec(), past.stores.lake.read_table("delay", "raw_data"))
    assert (len(validation.valid), len(validation.quarantine)) == (21, 0)


def test_an_event_outside_of_the_live_time_does_not_count(past: Past) -> None:
    past.answered(-1)
    past.answered(0)
    past.answered(4)
    for number in (-1, 0, 4):
        past.labelled(number, observed=2)
    assert past.live(4) == {"E0": 1}
    assert past.live(5) == {"E0": 1, "E4": 1}


@pytest.mark.parametrize("changes", [{"role": "shadow"}, {"status": 503}, {"probe": True}, {"model": "other"}])
def test_what_was_no_answer_to_a_caller_does_not_count(past: Past, changes: dict[str, Any]) -> None:
    past.answered(1, **changes)
    past.labelled(1)
    assert past.live(9) == {}


@pytest.mark.parametrize("role", ["challenger", "standby", "fallback"])
def test_an_answer_counts_whoever_gave_it(past: Past, role: str) -> None:
    past.answered(1, role=role)
    past.answered(1, role="shadow", version=9, features=(99.0, 1.0, False, "AA", "JFK"))
    past.labelled(1)
    assert past.live(9) == {"E1": 1}
    assert past.read(9).frame["temp"].iloc[-1] == 11.0


def test_one_request_is_one_row_whoever_else_answered_it(past: Past) -> None:
    past.answered(1)
    past.answered(1, role="standby", version=2, features=(99.0, 1.0, False, "AA", "JFK"))
    past.labelled(1)
    assert past.read(9).frame["temp"].iloc[-1] == 11.0
    assert past.read(9).logged_rows == 1


def test_a_label_may_name_the_entity_and_its_time(past: Past) -> None:
    past.answered(1)
    past.labelled(1, 0, id=None, entity="E1", event_time=LIVE_FROM + HOUR)
    past.labelled(1, 1, id=None, entity="E1", event_time=LIVE_FROM + 2 * HOUR)
    past.labelled(1, 1, id=None, entity="E2", event_time=LIVE_FROM + HOUR)
    assert past.live(9) == {"E1": 0}


def test_another_metric_is_no_label(past: Past) -> None:
    past.answered(1)
    past.labelled(1, 4.5, name="revenue")
    assert past.live(9) == {}
    assert past.read().as_of == LIVE_FROM


BY_EVENT = {"id": None, "entity": "E1", "event_time": LIVE_FROM + HOUR}


@pytest.mark.parametrize("first_way", [{}, BY_EVENT])
@pytest.mark.parametrize("second_way", [{}, BY_EVENT])
@pytest.mark.parametrize("order", [1, -1])
def test_the_highest_revision_wins_however_it_names_the_request(
    past: Past, first_way: dict[str, Any], second_way: dict[str, Any], order: int
) -> None:
    """A correction by entity and time was once passed over where the first label had named the request's id."""
    past.answered(1)
    both = [({"value": 1, **first_way}, 0), ({"value": 0, "observed": 6, **second_way}, 1)]
    for label, revision in both[::order]:
        past.labelled(1, revision=revision, **label)
    assert past.live(5) == {"E1": 1}
    assert past.live(6) == {"E1": 0}


@pytest.mark.parametrize("order", [1, -1])
def test_of_equal_revisions_the_last_received_wins_in_whichever_segment_it_stands(past: Past, order: int) -> None:
    past.answered(1)
    for value, received in [(1, 2), (0, 3)][::order]:
        past.labelled(1, value, observed=2, received_at=LIVE_FROM + received * HOUR)
    assert past.live(9) == {"E1": 0}


def test_a_request_without_entity_is_its_own(past: Past) -> None:
    past.answered(1, entity=None)
    past.labelled(1)
    assert past.read(9).frame["flight"].iloc[-1] == "r1"


def test_the_time_of_observation_is_a_column_where_it_is_declared(past: Past) -> None:
    past.write_source(landed=pd.Series([LIVE_FROM - HOUR] * SOURCE_ROWS))
    past.answered(1)
    past.labelled(1, observed=3)
    frame = past.read(9, label={"column": "late", "delay": "2h", "observed_at": "landed"}).frame
    assert frame["landed"].iloc[-1] == pd.Timestamp(LIVE_FROM + 3 * HOUR)


def test_a_label_from_the_future_does_not_move_as_of_there(past: Past) -> None:
    past.answered(1)
    past.labelled(1, observed_at=datetime(2999, 1, 1, tzinfo=UTC))
    assert past.read().as_of <= datetime.now(UTC)
    past.labelled(1, observed_at=LIVE_FROM - 99 * HOUR)
    assert past.read().as_of >= LIVE_FROM


def test_features_of_an_older_contract_are_matched_by_name(past: Past) -> None:
    manifest = msgspec.structs.replace(MANIFEST, model="delay", version=2, features=(FEATURES[4], FEATURES[0]))
    past.answered(1, bundle=past.stores.bundles.put(manifest, FILES), features=("JFK", 7.0))
    past.labelled(1)
    row = past.read(9).frame.iloc[-1]
    assert (row["temp"], row["origin"]) == (7.0, "JFK")
    assert pd.isna(row["seats"])


def test_the_same_past_has_the_same_hash_and_another_label_another(past: Past) -> None:
    past.answered(1)
    past.labelled(1, 1)
    first = past.read(9).data_hash
    assert past.read(9).data_hash == first
    past.labelled(1, 0, revision=1)
    assert past.read(9).data_hash != first


def test_an_event_that_is_asked_again_is_one_row_with_the_last_answer(past: Past) -> None:
    """Repeated requests once came back as repeated rows, which quarantined a retraining."""
    past.answered(1)
    past.answered(1, id="again", served_at=LIVE_FROM + 2 * HOUR, features=(99.0, 100.0, True, None, "EWR"))
    past.labelled(1)
    past.labelled(1, id="again")
    history = past.read()
    assert history.logged_rows == 1
    assert history.frame["temp"].iloc[-1] == 99.0
