"""Messages of a real NATS server are answered as the service answers requests; nothing is lost, and nothing is there twice."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

nats = pytest.importorskip("nats")

from nats.js.api import AckPolicy, ConsumerConfig  # noqa: E402

from mlops_assets.core.records import PredictionRecord  # noqa: E402
from mlops_assets.operations.live_traffic import compact, ingest, read_window, stale_windows  # noqa: E402
from mlops_assets.operations.stores import Stores  # noqa: E402
from mlops_assets.serving import stream as streaming  # noqa: E402
from mlops_assets.serving import stream_nats  # noqa: E402
from mlops_assets.serving.settings import ServingSettings  # noqa: E402
from mlops_assets.serving.stream import StreamCounts, StreamScorer  # noqa: E402
from mlops_assets.serving.stream_messages import encoded_answer  # noqa: E402
from mlops_assets.serving.stream_nats import StreamRefused, StreamSettings  # noqa: E402
from mlops_assets.stores.home import Home  # noqa: E402
from mlops_assets.stores.prediction_log import LogWriter, PredictionLog  # noqa: E402
from mlops_assets.stores.releases import ReleaseStore  # noqa: E402
from mlops_assets_tests.nats_server import NatsServer, nats_server  # noqa: E402
from mlops_assets_tests.serving.factory import Task, answered_outputs, release, small_model  # noqa: E402
from mlops_assets_tests.serving.harness import AppUnderTest  # noqa: E402
from mlops_assets_tests.waiting import wait_until  # noqa: E402

YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).isoformat()  # a window that is not over is not compacted


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


class Subjects:
    """Streams of a test's own on the shared server, and what is in them."""

    def __init__(self, server: NatsServer, name: str):
        self.url, self.name = server.url, name
        self.run(lambda js: js.add_stream(name=f"{name}-rows", subjects=[f"{name}.rows"]))
        self.run(lambda js: js.add_stream(name=f"{name}-answers", subjects=[f"{name}.answers", f"{name}.dead"]))

    def settings(self, **changes: Any) -> StreamSettings:
        said = {
            "model": "delay",
            "url": self.url,
            "subject_in": f"{self.name}.rows",
            "subject_out": f"{self.name}.answers",
            "subject_dead": f"{self.name}.dead",
            "durable": f"{self.name}-consumer",
            "batch": 50,
        }
        return StreamSettings(**{**said, **changes})

    def run(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        async def connected() -> Any:
            client = await nats.connect(self.url)
            try:
                return await work(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(connected())

    def put(self, *bodies: bytes) -> None:
        async def publish(js: Any) -> None:
            for body in bodies:
                await js.publish(f"{self.name}.rows", body)

        self.run(publish)

    def messages(self, subject: str) -> list[Any]:
        async def read(js: Any) -> list[Any]:
            found, config = [], ConsumerConfig(ack_policy=AckPolicy.NONE)
            reading = await js.pull_subscribe(f"{self.name}.{subject}", stream=f"{self.name}-answers", config=config)
            while (await reading.consumer_info()).num_pending:
                found += await reading.fetch(500)
            return found

        return self.run(read)

    def answers(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(message.data) for message in self.messages("answers")]

    def waiting(self) -> tuple[int, int]:
        """Messages not yet delivered, and delivered without an acknowledgement."""
        info = self.run(lambda js: js.consumer_info(f"{self.name}-rows", f"{self.name}-consumer"))
        return info.num_pending, info.num_ack_pending


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scorer that is told to stop, or has to wait, does not keep the test waiting."""
    monkeypatch.setattr(stream_nats, "_FETCH_S", 0.1)
    for module in (streaming, stream_nats):
        monkeypatch.setattr(module, "PAUSE_S", 0.05)


@pytest.fixture
def subjects(server: NatsServer, request: pytest.FixtureRequest) -> Subjects:
    return Subjects(server, f"t{abs(hash(request.node.name))}")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    release(home, small_model())
    return home


def scored(home: Home, subjects: Subjects, until: Callable[[StreamCounts], bool], **changes: Any) -> StreamCounts:
    """Score until it is enough, and stop."""
    scorer = StreamScorer(subjects.settings(**changes), ServingSettings(home, poll_seconds=0.02, retry_seconds=0.1))

    async def work() -> None:
        stopping = asyncio.Event()
        running = asyncio.create_task(scorer.run(stopping))
        async with asyncio.timeout(60):
            while not (until(scorer.counts) or running.done()):
                await asyncio.sleep(0.02)
            stopping.set()
            await running

    asyncio.run(work())
    return scorer.counts


def message(features: dict[str, Any], **extra: Any) -> bytes:
    return msgspec.json.encode({"features": features, **extra})


def predictions(home: Home) -> list[PredictionRecord]:
    return [one for one in PredictionLog(home.prediction_log).records() if isinstance(one, PredictionRecord)]


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_answers_are_those_of_the_service_and_on_record(tmp_path: Path, subjects: Subjects, task: Task) -> None:
    model, home = small_model(task=task), Home(tmp_path / "home")
    release(home, model)
    rows = model.request_rows(120)
    subjects.put(*(message(row, id=f"r{number}", entity="E") for number, row in enumerate(rows)))
    counts = scored(home, subjects, lambda counts: counts.answered == 120)
    assert (counts.answered, counts.dead, counts.repeated) == (120, 0, 0)
    assert subjects.waiting() == (0, 0)
    answers = {answer["prediction_id"]: answer for answer in subjects.answers()}
    outputs = np.array([answered_outputs(model, answers[f"r{number}"]) for number in range(120)])
    np.testing.assert_allclose(outputs, model.expected(120), rtol=0, atol=1e-12)
    assert sorted(record.id for record in predictions(home)) == sorted(answers)
    with AppUnderTest(Home(tmp_path / "home")) as app:
        asked = app.predict(rows[0], id="r0", entity="E").json()
    assert answers["r0"] == asked
    for record in predictions(home)[:20]:
        assert msgspec.json.decode(encoded_answer(record, model.manifest)) == answers[record.id]


def test_a_message_without_id_and_time_has_the_same_at_every_delivery(home: Home, subjects: Subjects) -> None:
    subjects.put(message(small_model().request_rows(1)[0]), message(small_model().request_rows(1)[0]))
    scored(home, subjects, lambda counts: counts.answered == 2)
    first = predictions(home)
    subjects.run(lambda js: js.delete_consumer(f"{subjects.name}-rows", f"{subjects.name}-consumer"))
    scored(home, subjects, lambda counts: counts.answered == 2)
    again = predictions(home)[2:]
    assert [(one.id, one.event_time) for one in again] == [(one.id, one.event_time) for one in first]
    assert len({one.id for one in first}) == 2
    assert PredictionLog(home.prediction_log).find(first[0].id)[0].id == first[0].id, "its time is in it"
    assert len(subjects.answers()) == 2, "JetStream drops what it has by its id"


BAD = {
    b"": "malformed_json",
    b"\xff": "malformed_json",
    b"[1]": "invalid_value",
    b'{"features": {"temp": NaN}}': "invalid_value",
    b'{"features": {"distance": 1, "wind": 3}}': "unknown_field",
    b'{"features": {"temp": 1}}': "missing_field",
    b'{"id": 7, "features": {"distance": 1}}': "invalid_value",
    b'{"rows": [{"features": {"distance": 1}}]}': "unknown_field",
    '{"features": {"distance": "wéit\\n"}}'.encode(): "invalid_value",
}


def test_what_can_never_be_answered_goes_to_the_dead_letters_with_its_reason(home: Home, subjects: Subjects) -> None:
    good = message(small_model().request_rows(1)[0], id="good")
    subjects.put(*BAD, good)
    counts = scored(home, subjects, lambda counts: counts.answered + counts.dead == len(BAD) + 1)
    assert (counts.answered, counts.dead) == (1, len(BAD))
    assert subjects.waiting() == (0, 0)
    dead = {
        one.data or b"": msgspec.json.decode(one.headers["Mlops-Error"])["error"]["code"]
        for one in subjects.messages("dead")
    }
    assert dead == BAD
    assert {one.status for one in predictions(home) if one.id != "good"} <= {400, 422}


def test_what_was_logged_before_a_crash_is_answered_as_logged_whatever_is_released_since(
    home: Home, subjects: Subjects
) -> None:
    """The scorer died between the log and the acknowledgement; the next one found a newer release and answered twice."""
    row = small_model().request_rows(1)[0]
    subjects.put(message(row, id="r1"), message(row, id="r2"))

    async def fetch_and_die(js: Any) -> None:
        subscription = await js.pull_subscribe(f"{subjects.name}.rows", f"{subjects.name}-consumer")
        for one in await subscription.fetch(2):
            await one.nak()

    subjects.run(fetch_and_die)
    with AppUnderTest(home) as app:
        told = app.predict(row, id="r1").json()
    release(home, small_model(version=2))
    counts = scored(home, subjects, lambda counts: counts.answered == 2)
    assert counts.repeated == 1
    answers = {answer["prediction_id"]: answer for answer in subjects.answers()}
    assert answers["r1"] == told
    assert (answers["r1"]["model_version"], answers["r2"]["model_version"]) == (1, 2)
    assert sorted(one.id for one in predictions(home)) == ["r1", "r2"]


def test_messages_wait_for_a_model(tmp_path: Path, subjects: Subjects) -> None:
    home = Home(tmp_path / "home")
    subjects.put(message(small_model().request_rows(1)[0], id="r1"))
    looks = 0

    def released_meanwhile(counts: StreamCounts) -> bool:
        nonlocal looks
        looks += 1
        if looks == 5:
            release(home, small_model())
        return counts.answered == 1

    counts = scored(home, subjects, released_meanwhile)
    assert (counts.answered, counts.dead) == (1, 0)


def test_while_the_log_takes_nothing_messages_wait(
    home: Home, subjects: Subjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, failures = LogWriter.append, 0

    def full(self: LogWriter, records: Any) -> None:
        nonlocal failures
        failures += 1
        if failures <= 6:
            raise streaming_error("no space left on device")
        append(self, records)

    from mlops_assets.stores.prediction_log import LogError as streaming_error

    monkeypatch.setattr(LogWriter, "append", full)
    subjects.put(message(small_model().request_rows(1)[0], id="r1"))
    counts = scored(home, subjects, lambda counts: counts.answered == 1)
    assert (counts.answered, counts.dead, failures > 6) == (1, 0, True)
    assert [one.id for one in predictions(home) if one.status == 200] == ["r1"]


def test_a_retired_model_leaves_its_messages_alone(home: Home, subjects: Subjects) -> None:
    store = ReleaseStore(home.releases)
    plan = store.current("delay")
    assert plan is not None
    store.publish(msgspec.structs.replace(plan, release=2, previous=1, retired="gone"))
    subjects.put(message(small_model().request_rows(1)[0], id="r1"))
    looks = iter(range(20))
    scored(home, subjects, lambda _: next(looks) == 19)
    assert subjects.waiting() == (1, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subject_in": "nobody.takes.this"}, "no JetStream stream takes 'nobody.takes.this'"),
        ({"subject_out": "nobody.takes.this"}, "no JetStream stream takes 'nobody.takes.this'"),
        ({"subject_in": "a.*", "subject_out": "a.b"}, "what goes to 'a.b' would come back by 'a.*'"),
        ({"subject_in": "a.>", "subject_dead": "a.b.c"}, "what goes to 'a.b.c' would come back"),
        ({"url": "nats://127.0.0.1:1"}, "no NATS server answers"),
    ],
)
def test_subjects_that_cannot_work_are_refused(
    home: Home, subjects: Subjects, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_nats, "CONNECT_S", 0.3)
    with pytest.raises(StreamRefused, match=said.replace("*", r"\*")):
        scored(home, subjects, lambda _: False, **changes)


KILLS = 3
MESSAGES = 600


@pytest.mark.slow
def test_a_killed_streamer_loses_and_doubles_nothing(home: Home, subjects: Subjects) -> None:
    """Killed three times in the middle of a stream, stopped once by SIGTERM: each id is answered, and in the lake once."""
    model, names = small_model(), [f"r{number}" for number in range(MESSAGES)]
    rows = model.request_rows(100)
    bodies = [
        message(rows[number % 100], id=name, entity=f"E{number}", event_time=YESTERDAY)
        for number, name in enumerate(names)
    ]
    subjects.put(*bodies)
    said = subjects.settings()
    command = [
        sys.executable,
        "-m",
        "mlops_assets.cli",
        "stream",
        "delay",
        "--nats",
        said.url,
        "--subject-in",
        said.subject_in,
    ]
    command += ["--subject-out", said.subject_out, "--subject-dead", said.subject_dead, "--durable", said.durable]
    command += ["--batch", "20", "--ack-wait", "1"]
    environment = {**os.environ, "MLOPS_HOME": str(home.root), "MLOPS_LOG_SEGMENT_SECONDS": "1"}

    def logged() -> int:
        return len({one.id for one in PredictionLog(home.prediction_log).records(skipped=[])})

    for kill in range(KILLS):
        process = subprocess.Popen(command, env=environment)
        enough = MESSAGES * (kill + 1) // (KILLS + 2)
        wait_until(lambda enough=enough: logged() >= enough, timeout_s=120, every_s=0.01)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.wait()
        if kill == 0:
            release(home, small_model(version=2))
    process = subprocess.Popen(command, env=environment)
    wait_until(lambda: logged() == MESSAGES and subjects.waiting() == (0, 0), timeout_s=180)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not list(home.prediction_log.glob("*.open")), "it sealed its log"

    stores, spec = Stores(home), model.spec
    ingest(stores, [spec])
    for window in stale_windows(spec, stores):
        compact(spec, stores, window)
    in_lake = [
        name
        for window in stores.lake.tables("delay", "live_traffic")
        for name in read_window(spec, stores, window)["id"]
    ]
    assert sorted(in_lake) == sorted(names)
    # An answer may be there twice: JetStream forgets after two minutes what it has, and a slow machine starts later.
    assert {answer["prediction_id"] for answer in subjects.answers()} == set(names)
    assert subjects.messages("dead") == []
