"""What an operator sees of incidents, decisions and the record of them."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mlops_assets.cli import app
from mlops_assets.core.ledger import Ended, Joined, Mitigated, Rejected, Resolved, Started
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.home import Home
from mlops_assets.stores.outbox import Delivery
from mlops_assets_tests.core.ledger_examples import AT, decided, entry, opened


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stores:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    stores = Stores(Home(tmp_path))
    stores.ledger.record(
        entry("i-1", opened(window="2024-03-01"), now=AT),
        entry("i-1", Joined("critical"), 1),
        entry("i-2", opened("performance"), 2, model="air_time"),
        entry("i-3", opened("[red]service"), 3),
        entry("i-3", Resolved("it answers"), 4),
        entry("d-1", decided("impute"), 5, now=AT),
        entry("d-1", Started(1), 6),
        entry("d-1", Ended("done", 1), 7),
        entry("d-2", decided("retrain", "approve"), 8),
    )
    return stores


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def rows(*arguments: str) -> list[str]:
    """The lines of a table below its heading."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()[1:]


def refused(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 1
    return result.stderr


@pytest.mark.usefixtures("stores")
class TestIncidents:
    def test_those_that_are_open_newest_first(self) -> None:
        second, first = rows("incidents")
        assert "i-2" in second
        for said in (
            "i-1",
            "delay",
            "critical",
            "feed:temp",
            "2024-03-01 12:00:00Z",
            "2×",
            "open",
            "feed:temp is broken",
        ):
            assert said in first

    def test_all_with_how_they_ended(self) -> None:
        assert [line.split()[0] for line in rows("incidents", "delay", "--all")] == ["i-3", "i-1"]
        assert "resolved 2024-03-01 12:04:00Z: it answers" in rows("incidents", "--all")[0]
        assert "[red]service" in rows("incidents", "--all")[0]

    def test_how_far_one_is(self, stores: Stores) -> None:
        stores.ledger.record(entry("i-1", Mitigated("imputed [x]"), 9))
        assert "mitigated 2024-03-01 12:09:00Z: imputed [x]" in rows("incidents", "delay")[0]

    def test_a_model_that_nothing_is_written_about(self) -> None:
        assert "the ledger knows air_time, delay" in refused("incidents", "dela")

    def test_one_is_acknowledged_with_a_reason(self, stores: Stores) -> None:
        assert (
            "i-1 of delay is acknowledged"
            in run("acknowledge", "i-1", "--reason", "the sensor is being changed").output
        )
        [one] = stores.ledger.of("delay").open_incidents
        assert one.acknowledged_at is not None
        assert str(one.acknowledged_by).startswith("user:")
        assert f"acknowledged by {one.acknowledged_by}" in rows("incidents", "delay")[0]
        assert stores.ledger.entries("delay", kinds=["incident acknowledged"])[0].entry.fact.reason  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("name", "said"),
        [("i-9", "no incident begins with 'i-9'"), ("i", "several incidents begin"), ("i-3", "was resolved at")],
    )
    def test_what_cannot_be_acknowledged(self, name: str, said: str) -> None:
        assert said in refused("acknowledge", name, "--reason", "x")


class TestDecisions:
    def test_each_with_what_became_of_it(self, stores: Stores) -> None:
        waits, done = rows("decisions", "delay")
        assert "waits for approval" in waits
        for said in ("d-1", "impute", "auto", "2024-03-01 12:05:00Z", "done", "it has decayed"):
            assert said in done
        stores.ledger.record(entry("d-2", Rejected("no"), actor="user:ann"), entry("d-1", Started(2)))
        waits, done = rows("decisions")
        assert "rejected by user:ann" in waits
        assert "under way" in done


@pytest.mark.usefixtures("stores")
class TestAudit:
    def test_an_intact_ledger(self, stores: Stores) -> None:
        result = run("audit", "verify")
        assert result.exit_code == 0
        head = stores.ledger.head()
        assert result.output == f"intact: 9 lines; head 9:{head.hash}\n"
        assert run("audit", "verify", "--head", f"9:{head.hash}").exit_code == 0
        assert "written anew" in refused("audit", "verify", "--head", f"8:{head.hash}")
        assert "is no head" in refused("audit", "verify", "--head", head.hash)

    def test_a_changed_line_is_named(self, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as other:
            other.execute("UPDATE entries SET actor = 'user:eve' WHERE seq = 4")
            other.commit()
        said = refused("audit", "verify")
        assert said == "the ledger is damaged (first bad line: 4): line 4 is not what was written\n"

    def test_its_lines_as_a_table_and_as_json(self) -> None:
        shown = rows("audit", "show", "air_time")
        assert len(shown) == 1
        for said in ("3", "air_time", "incident opened", "i-2", "sensor:delay_response", '"cause":"performance"'):
            assert said in shown[0]
        lines = [json.loads(line) for line in run("audit", "show", "--json").output.splitlines()]
        assert [line["seq"] for line in lines] == list(range(1, 10))
        assert lines[0]["entry"]["fact"]["type"] == "incident opened"


class TestNotifications:
    def test_those_that_have_not_arrived(self, stores: Stores) -> None:
        key = stores.outbox.all("waiting")[0].notice.key
        fares = Delivery("receiver 1 (json)", "given up", 10, AT, AT, "answered with status 503")
        stores.outbox.settle(key, {fares.receiver: fares}, AT)
        shown = "\n".join(rows("notifications"))
        assert "given up" in shown
        assert "receiver 1 (json): given up after 10 attempts (answered with status 503)" in shown


def test_an_empty_ledger_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    assert run("incidents").output == "no open incident\n"
    assert run("decisions").output == "no decision\n"
    assert run("notifications").output == "every notification has arrived\n"
    assert run("audit", "verify").output == "intact: 0 lines; head 0:\n"


def test_one_that_is_out_of_reach_says_where_and_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLOPS_LEDGER_URL", f"sqlite:///{tmp_path}/file/ledger.db")
    assert "set MLOPS_LEDGER_URL" in refused("incidents")


def test_the_setting_names_another_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = Home(tmp_path)
    monkeypatch.delenv("MLOPS_LEDGER_URL", raising=False)
    assert home.ledger == f"sqlite:///{tmp_path}/ledger.db"
    monkeypatch.setenv("MLOPS_LEDGER_URL", "postgresql+psycopg://ann@db/mlops")
    assert home.ledger == "postgresql+psycopg://ann@db/mlops"
