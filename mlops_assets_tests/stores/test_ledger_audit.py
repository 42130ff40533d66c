"""Whatever is done to a ledger's lines behind its back is found, with the number of the first bad line."""

import pytest
import sqlalchemy as sa

from mlops_assets.core.ledger import Approved, Joined, Refused, Released, Resolved
from mlops_assets.stores.ledger import Head, Ledger
from mlops_assets.stores.ledger_chain import Row
from mlops_assets.stores.ledger_tables import ENTRIES, HEAD
from mlops_assets_tests.core.ledger_examples import AT, decided, entry, opened


@pytest.fixture
def ledger(url: str) -> Ledger:
    ledger = Ledger(url)
    ledger.record(entry("i-1", opened(window="w1"), now=AT, key="first"))
    ledger.record(entry("i-1", Joined("critical", "w2"), 1), entry("d-1", decided("roll back", "approve"), 2))
    ledger.record(entry("d-1", Approved("yes"), 3, actor="user:ann"))
    ledger.record(entry("delay", Released(2, 1, 2, "direct", False, "back"), 4), entry("delay", Refused(3, "worse"), 5))
    ledger.record(entry("i-1", Resolved("well"), 6))
    return ledger


def tamper(ledger: Ledger, *statements: str) -> None:
    with ledger.database.writing() as connection:
        for one in statements:
            connection.execute(sa.text(one))


@pytest.mark.parametrize(
    ("statement", "seq", "said"),
    [
        ("UPDATE entries SET body = replace(body, 'w2', 'w3') WHERE seq = 2", 2, "line 2 is not what was written"),
        ("UPDATE entries SET model = 'other' WHERE seq = 3", 3, "line 3 is not what was written"),
        ("UPDATE entries SET subject = 'd-2' WHERE seq = 4", 4, "line 4 is not what was written"),
        ("UPDATE entries SET kind = 'rejected' WHERE seq = 4", 4, "line 4 is not what was written"),
        ("UPDATE entries SET actor = 'user:bob' WHERE seq = 4", 4, "line 4 is not what was written"),
        ("UPDATE entries SET key = 'second' WHERE seq = 1", 1, "line 1 is not what was written"),
        ("UPDATE entries SET key = NULL WHERE seq = 1", 1, "line 1 is not what was written"),
        ("UPDATE entries SET at = '2024-03-01 12:00:00.000001' WHERE seq = 1", 1, "line 1 is not what was written"),
        ("UPDATE entries SET now = NULL WHERE seq = 1", 1, "line 1 is not what was written"),
        ("UPDATE entries SET hash = 'x' WHERE seq = 7", 7, "line 7 is not what was written"),
        ("UPDATE entries SET previous_hash = '' WHERE seq = 5", 5, "line 5 does not follow the line before it"),
        ("DELETE FROM entries WHERE seq = 1", 1, "line 1 is missing"),
        ("DELETE FROM entries WHERE seq = 4", 4, "line 4 is missing"),
        ("DELETE FROM entries WHERE seq = 7", 7, "ends at line 6, though 7 were written"),
        ("DELETE FROM entries WHERE seq > 2", 3, "ends at line 2, though 7 were written"),
        ("DELETE FROM entries", 1, "ends at line 0, though 7 were written"),
        ("UPDATE entries SET seq = seq - 5 WHERE seq = 2", -3, "a line has the number -3"),
        ("DELETE FROM head", 7, "head of the ledger is missing"),
        ("UPDATE head SET hash = 'x'", 7, "line 7 is not the newest one"),
        ("UPDATE head SET seq = 6", 7, "there are 7 lines, though only 6 were written"),
        ("UPDATE incidents SET severity = 'info'", 1, "table incidents says something else than the lines: severity"),
        ("DELETE FROM incidents", 1, "the row delay/i-1 of table incidents is missing"),
        ("UPDATE decisions SET outcome = 'done'", 3, "table decisions says something else than the lines: outcome"),
        ("UPDATE approvals SET actor = 'user:bob'", 4, "table approvals says something else than the lines: actor"),
        ("UPDATE releases SET version = 9", 5, "table releases says something else than the lines: version"),
        ("DELETE FROM refusals", 6, "the row 6 of table refusals is missing"),
        (
            "INSERT INTO refusals (seq, model, reason, actor, at) VALUES (4, 'delay', 'x', 'y', '2024-03-01 12:00:00')",
            None,
            "the row 4 of table refusals follows from no line",
        ),
    ],
)
def test_what_was_done_to_it_is_found(ledger: Ledger, statement: str, seq: int | None, said: str) -> None:
    assert ledger.verify().intact
    tamper(ledger, statement)
    found = ledger.verify()
    assert found.problem is not None
    assert said in found.problem
    assert found.seq == seq


def test_lines_that_changed_places_are_found(ledger: Ledger) -> None:
    tamper(
        ledger,
        "UPDATE entries SET seq = 100 WHERE seq = 2",
        "UPDATE entries SET seq = 2 WHERE seq = 3",
        "UPDATE entries SET seq = 3 WHERE seq = 100",
    )
    assert ledger.verify().seq == 2


def test_a_line_that_was_put_between_others_is_found(ledger: Ledger) -> None:
    first, second = ledger.entries()[:2]
    forged = Row.of(2, entry("i-1", Joined("info", "w9")), first.hash)
    with ledger.database.writing() as connection:
        for seq in range(7, 1, -1):
            connection.execute(sa.update(ENTRIES).where(ENTRIES.c.seq == seq).values(seq=seq + 1))
        connection.execute(sa.insert(ENTRIES), [{name: getattr(forged, name) for name in Row.__struct_fields__}])
    found = ledger.verify()
    assert (found.seq, found.problem) == (3, "line 3 does not follow the line before it")
    assert second.seq == 2


def test_a_moment_that_is_none_is_found_where_it_is(ledger: Ledger) -> None:
    if not ledger.database.is_sqlite:
        return  # PostgreSQL does not take it
    tamper(ledger, "UPDATE entries SET at = 'yesterday' WHERE seq = 5")
    found = ledger.verify()
    assert (found.seq, found.problem) == (5, "line 5 cannot be read")


def test_who_writes_all_of_it_anew_is_found_by_a_head_that_was_kept_elsewhere(ledger: Ledger) -> None:
    kept = ledger.head()
    assert ledger.verify(kept).intact
    ledger.record(entry("i-2", opened("performance")))
    assert ledger.verify(kept).intact
    before = ""
    with ledger.database.writing() as connection:
        for line in connection.execute(sa.select(ENTRIES).order_by(ENTRIES.c.seq)).all():
            row = Row.of(line.seq, Row.read(line).entry(), before)
            if line.seq == 4:
                row = Row.of(4, entry("d-1", Approved("yes"), 3, actor="user:bob"), before)
                connection.execute(sa.text("UPDATE approvals SET actor = 'user:bob'"))
                connection.execute(sa.text("UPDATE decisions SET approved_by = 'user:bob'"))
            values = {name: getattr(row, name) for name in Row.__struct_fields__}
            connection.execute(sa.update(ENTRIES).where(ENTRIES.c.seq == line.seq).values(values))
            before = row.hash
        connection.execute(sa.update(HEAD).values(hash=before))
    assert ledger.verify().intact
    found = ledger.verify(kept)
    assert found.seq == 7
    assert "written anew" in str(found.problem)
    assert ledger.verify(Head(9, "x")).problem == "the ledger ends at line 8, though line 9 was there"
