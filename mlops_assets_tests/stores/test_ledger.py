"""The ledger on real databases: SQLite always, PostgreSQL among the slow tests."""

import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_assets.core.ledger import (
    Approved,
    Ended,
    Entry,
    Frozen,
    Joined,
    Mitigated,
    Opened,
    Refused,
    Rejected,
    Released,
    Resolved,
    Started,
)
from mlops_assets.core.ledger_fold import fold
from mlops_assets.stores import database
from mlops_assets.stores.database import LedgerUnavailable
from mlops_assets.stores.ids import new_id
from mlops_assets.stores.ledger import Ledger
from mlops_assets.stores.ledger_tables import METADATA, REVISION
from mlops_assets.stores.outbox import Outbox
from mlops_assets_tests.core.ledger_examples import AT, decided, entries, entry, opened
from mlops_assets_tests.stores.beside import connected
from mlops_assets_tests.stores.ledger_workers import (
    fork_and_record,
    in_processes,
    kill_a_writer,
    open_and_record,
    record_many,
)


@pytest.fixture
def ledger(url: str) -> Ledger:
    return Ledger(url, patience_s=10)


def table(url: str, query: str) -> list[tuple[Any, ...]]:
    with connected(url) as connection:
        return [tuple(row) for row in connection.execute(sa.text(query))]


class TestRecording:
    def test_what_was_recorded_is_read_back(self, ledger: Ledger) -> None:
        them = (
            entry("i-1", opened(window="2024-03-01", began=AT, evidence=("61 % missing",)), now=AT, key="a"),
            entry("d-1", decided(incidents=("i-1",), details={"as_of": "2024-03-01"}), 1),
            entry("i-2", opened("performance"), 2, model="air_time"),
        )
        assert ledger.record(*them)
        lines = ledger.entries()
        assert tuple(line.entry for line in lines) == them
        assert [line.seq for line in lines] == [1, 2, 3]
        assert ledger.of("delay") == fold("delay", them[:2])
        assert ledger.of("air_time") == fold("air_time", them[2:])
        assert ledger.of("unknown").incidents == ()
        assert ledger.models() == ("air_time", "delay")
        assert (ledger.head().seq, ledger.head().hash) == (3, lines[-1].hash)
        assert ledger.verify().intact

    def test_moments_are_kept_to_the_microsecond_whatever_their_zone(self, ledger: Ledger) -> None:
        at = datetime(2024, 3, 1, 12, 0, 0, 123457, timezone(timedelta(hours=5, minutes=30)))
        ledger.record(entry("i-1", opened(began=at), at=at, now=at))
        [line] = ledger.entries()
        assert (line.entry.at, line.entry.now) == (at, at)
        assert ledger.verify().intact

    def test_an_entry_with_a_known_key_is_not_taken_nor_are_those_beside_it(self, ledger: Ledger) -> None:
        assert ledger.record(entry("i-1", opened(), key="w1"))
        assert not ledger.record(entry("i-2", opened("other")), entry("i-1", Joined("critical"), key="w1"))
        assert not ledger.record(entry("i-9", opened(), model="air_time", key="w1"))
        assert len(ledger.entries()) == 1
        assert ledger.record(entry("i-1", Joined("critical"), key="w2"))
        assert [one.severity for one in ledger.of("delay").incidents] == ["critical"]

    def test_lines_are_chosen_by_model_number_and_kind(self, ledger: Ledger) -> None:
        ledger.record(entry("i-1", opened()), entry("i-1", Joined("info")), entry("x", Frozen("y"), model="air_time"))
        assert [line.seq for line in ledger.entries(since_seq=1)] == [2, 3]
        assert [line.seq for line in ledger.entries("delay", kinds=["incident joined"])] == [2]
        assert [line.seq for line in ledger.entries(kinds=["frozen", "incident opened"])] == [1, 3]

    def test_nothing_to_record_is_no_line(self, ledger: Ledger) -> None:
        assert ledger.record()
        assert ledger.entries() == ()

    def test_a_record_grows_with_what_others_write(self, ledger: Ledger, url: str) -> None:
        other = Ledger(url)
        ledger.record(entry("i-1", opened()))
        assert len(other.of("delay").incidents) == 1
        ledger.record(entry("i-1", Joined("critical", "w2")))
        other.record(entry("i-1", Resolved("well")))
        assert ledger.of("delay") == other.of("delay") == Ledger(url).of("delay")
        assert ledger.of("delay").open_incidents == ()

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            (entry("i-1", opened(), at=AT.replace(tzinfo=None)), "time zone"),
            (entry("i-1", opened(), now=AT.replace(tzinfo=None)), "time zone"),
            (entry("", opened()), "must not be empty"),
            (entry("i-\0", opened()), "NUL"),
            (entry("i-1", Opened("a", "b", "terrible")), "would not read back"),  # type: ignore[arg-type]
            (entry("m", Released(1, "2", None, "", True, "")), "would not read back"),  # type: ignore[arg-type]
        ],
    )
    def test_what_would_not_read_back_is_refused(self, ledger: Ledger, wrong: Entry, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            ledger.record(entry("i-0", opened()), wrong)
        assert ledger.entries() == ()

    def test_two_entries_of_one_call_need_two_keys(self, ledger: Ledger) -> None:
        with pytest.raises(ValueError, match="one key"):
            ledger.record(entry("i-1", opened(), key="a"), entry("i-2", opened(), key="a"))

    def test_ids_follow_the_time(self) -> None:
        ids = [new_id("i") for _ in range(100)]
        assert ids == sorted(set(ids))
        assert new_id("d").startswith("d-")

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.lists(entries, max_size=4), max_size=6))
    def test_any_entries_give_the_record_of_their_fold_and_an_intact_chain(
        self, tmp_path: Path, batches: list[list[Entry]]
    ) -> None:
        path = tmp_path / "any.db"
        for leftover in tmp_path.glob("any.db*"):
            leftover.unlink()
        ledger = Ledger(f"sqlite:///{path}")
        for batch in batches:
            ledger.record(*batch)
            ledger.of("delay")
        whole = [one for batch in batches for one in batch]
        for model in ("delay", "air_time"):
            assert ledger.of(model) == fold(model, [one for one in whole if one.model == model])
        found = ledger.verify()
        assert (found.problem, found.lines) == (None, len(whole))


class TestTablesForSql:
    def test_they_say_what_the_record_says(self, ledger: Ledger, url: str) -> None:
        ledger.record(
            entry("i-1", opened(window="w1")),
            entry("i-1", Joined("critical", "w2"), 1),
            entry("i-1", Mitigated("imputed", "d-1"), 2),
            entry("d-1", decided("retrain", "approve", window="w2"), 3),
        )
        ledger.record(
            entry("d-1", Approved("yes"), 4, actor="user:ann"),
            entry("d-1", Started(1, "run-1"), 5),
            entry("d-1", Ended("done", 1, "run-1"), 6),
            entry("delay", Released(2, 5, 4, "shadow", True, "better"), 7),
            entry("delay", Refused(6, "worse"), 8),
            entry("d-2", decided("roll back", "approve"), 9),
            entry("d-2", Rejected("no"), 10, actor="user:bob"),
        )
        assert table(url, "SELECT id, severity, times_found, windows, mitigated_by FROM incidents") == [
            ("i-1", "critical", 2, '["w1","w2"]', "imputed")
        ]
        assert table(url, "SELECT id, action, window_key, outcome, attempts, runs FROM decisions ORDER BY id") == [
            ("d-1", "retrain", "w2", "done", 1, '["run-1"]'),
            ("d-2", "roll back", None, None, 0, "[]"),
        ]
        assert table(url, "SELECT seq, release, version, former FROM releases") == [(8, 2, 5, 4)]
        assert table(url, "SELECT seq, version, reason FROM refusals") == [(9, 6, "worse")]
        assert table(url, "SELECT decision, actor, reason FROM approvals ORDER BY seq") == [
            ("d-1", "user:ann", "yes"),
            ("d-2", "user:bob", "no"),
        ]
        assert ledger.verify().intact

    def test_notices_are_put_with_the_entries_that_they_tell_of(self, ledger: Ledger) -> None:
        ledger.record(entry("i-1", opened(), key="a"))
        ledger.record(entry("i-1", opened(), key="a"))
        ledger.record(entry("i-1", Joined("warning", "w2")))
        [posted] = Outbox(ledger.database).all()
        assert (posted.notice.key, posted.state, posted.put_at) == ("incident:delay:i-1:opened", "waiting", AT)


class TestOpening:
    def test_the_migrations_lead_to_the_tables_that_the_program_uses(self, ledger: Ledger, url: str) -> None:
        ledger.head()
        assert ScriptDirectory(str(Path(database.__file__).parent / "migrations")).get_current_head() == REVISION
        with connected(url) as connection:
            assert compare_metadata(MigrationContext.configure(connection), METADATA) == []

    def test_many_may_open_it_for_the_first_time_at_once(self, url: str) -> None:
        assert in_processes(4, open_and_record, url) == [True] * 4
        assert [line.seq for line in Ledger(url).entries()] == [1, 2, 3, 4]
        assert Ledger(url).verify().intact

    def test_one_of_a_newer_version_is_left_alone(self, ledger: Ledger, url: str) -> None:
        ledger.head()
        with connected(url) as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(LedgerUnavailable, match="another version of mlops-assets"):
            Ledger(url).head()

    def test_a_process_made_by_fork_opens_its_own_connections(self, url: str) -> None:
        assert in_processes(1, fork_and_record, url) == [0]
        ledger = Ledger(url)
        assert ledger.of("delay").incidents[0].times_found == 3
        assert ledger.verify().intact


class TestManyAtOnce:
    def test_no_line_is_lost_and_a_key_is_taken_once(self, url: str) -> None:
        Ledger(url).head()
        taken = in_processes(4, record_many, url)
        assert sum(taken) == 20
        ledger = Ledger(url)
        assert len(ledger.entries()) == 4 * 20 + 20
        assert ledger.verify().intact
        assert [len(ledger.of(f"model_{n}").incidents[0].windows) for n in range(4)] == [20] * 4

    def test_threads_share_one(self, ledger: Ledger) -> None:
        ledger.record(entry("i-1", opened()))

        def work() -> None:
            for _ in range(10):
                ledger.record(entry("i-1", Joined("info")))
                ledger.of("delay")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert ledger.of("delay").incidents[0].times_found == 41
        assert ledger.verify().intact

    def test_a_killed_writer_loses_nothing_that_it_was_told_is_written(self, url: str) -> None:
        ledger = Ledger(url)
        ledger.head()
        for kill_after in (1, 3, 8, 20):
            before = ledger.head().seq
            told = kill_a_writer(url, kill_after)
            # of what it was doing when it died, the whole is there, or nothing
            assert ledger.head().seq - before in (2 * told, 2 * told + 2)
            found = ledger.verify()
            assert found.problem is None, found
