"""Explanations off the hot path: who waits, what fails elsewhere is told, and the process that answers."""

import asyncio
import os
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import msgspec
import pytest

from mlops_assets.core.explaining import Attribution, NotInstalled, Question
from mlops_assets.core.scoring.scorer import ScorerError
from mlops_assets.serving import explain_process
from mlops_assets.serving.explain_process import Answer, Asked, ExplainerFailed, ExplainProcess, Lookup, serve
from mlops_assets.stores.home import Home
from mlops_assets.stores.log_search import Limits, Search
from mlops_assets_tests.serving.explained import explained_model
from mlops_assets_tests.serving.harness import AppUnderTest
from mlops_assets_tests.serving.test_explain import (
    FEATURES,
    PATH,
    app,
    explainer_by,
    explainer_of,
    home,
    one_after_the_other,
    refused,
    running,
)

__all__ = ["app", "home"]


class TestOffTheHotPath:
    def test_predictions_go_on_while_explanations_are_made_and_too_many_are_turned_away(self, app: AppUnderTest):
        held = Held()
        explainer = app.runtime.explainer = explainer_of(app.home, held, waiting=2)

        async def together() -> tuple[list[httpx.Response], list[httpx.Response], httpx.Response]:
            def post(path: str) -> Any:
                return app._client.post(path, json={"features": FEATURES})

            asked = [asyncio.create_task(post(PATH)) for _ in range(2)]
            await asyncio.to_thread(held.asked.wait, 20)
            while explainer.waiting < 2:
                await asyncio.sleep(0.001)
            predicted = [await post("/v1/models/delay/predict") for _ in range(20)]
            third = await post(PATH)
            assert not any(task.done() for task in asked)
            held.go_on.set()
            return list(await asyncio.gather(*asked)), predicted, third

        asked, predicted, third = app._runner.run(together())

        assert {one.status_code for one in (*predicted, *asked)} == {200}
        assert refused(third)[:2] == (503, "overloaded")
        assert third.headers["retry-after"] == "5"
        assert explainer.waiting == 0
        explainer.close()

    def test_a_caller_waits_no_longer_than_that(self, app: AppUnderTest):
        held = Held()
        explainer = app.runtime.explainer = explainer_of(app.home, held, seconds=0.01)
        code, name, message = refused(app.post(PATH, {"features": FEATURES}))
        held.go_on.set()
        assert (code, name) == (503, "overloaded")
        assert "not ready within 0.01 s" in message
        app.wait_for(lambda: app.get("/v1/models").status_code == 200 and explainer.waiting == 0)
        explainer.close()

    @pytest.mark.parametrize("waiting", [0, 8], ids=["one too many", "for too long"])
    def test_that_it_is_starting_is_told_from_overload(self, app: AppUnderTest, waiting: int):
        """The first explanation of a fresh worker was answered `overloaded`, with nobody else there."""
        held = Held()
        explainer = app.runtime.explainer = explainer_of(
            app.home, held, is_starting=True, waiting=waiting, seconds=0.01
        )
        answer = app.post(PATH, {"features": FEATURES})
        held.go_on.set()
        code, name, message = refused(answer)
        assert (code, name, answer.headers["retry-after"]) == (503, "starting", "5")
        assert message == "the explainer is starting; the first explanation of a worker takes longer: ask again"
        explainer.close()

    def test_what_was_started_for_a_caller_who_has_gone_is_kept_for_the_next(
        self, app: AppUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """With a library that takes as long to import as it is told to, and then is not there."""
        there = tmp_path / "there"
        (tmp_path / "shap.py").write_text(
            "import pathlib, time\n"
            f"while not pathlib.Path({str(there)!r}).exists(): time.sleep(0.01)\n"
            "raise ImportError\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        process = ExplainProcess()
        explainer = app.runtime.explainer = explainer_by(app.home, process, seconds=0.1)
        try:
            app.wait_for(lambda: refused(app.post(PATH, {"features": FEATURES}))[:2] == (503, "starting"))
            assert process._process is not None
            started = process._process.pid
            for _ in range(3):
                assert refused(app.post(PATH, {"features": FEATURES}))[:2] == (503, "starting")
            there.touch()
            app.wait_for(lambda: app.get("/v1/models").status_code == 200 and explainer.waiting == 0)
            assert not process.is_starting
            explainer._seconds = 20.0
            assert refused(app.post(PATH, {"features": FEATURES}))[:2] == (501, "not_installed")
            assert process._process.pid == started
        finally:
            there.touch()
            process.close()
            explainer.close()

    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (NotInstalled("install the extra mlops-assets[explain]"), (501, "not_installed")),
            (ExplainerFailed("it has died"), (503, "not_explained")),
            (ScorerError("feature 'distance' is infinite"), (422, "invalid_value")),
        ],
    )
    def test_what_goes_wrong_elsewhere_is_told(self, home: Home, error: Exception, told: tuple[int, str]):
        def fails(_question: Question) -> Attribution:
            raise error

        with running(home, fails) as app:
            code, name, message = refused(app.post(PATH, {"features": FEATURES}))
        assert (code, name, message) == (*told, str(error))


class Held:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.asked, self.go_on = Event(), Event()

    def __call__(self, question: Question) -> Attribution:
        self.asked.set()
        assert self.go_on.wait(20)
        return one_after_the_other(question)


def test_the_process_answers_until_no_more_is_asked_or_nobody_asks_for_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(explain_process, "warm_up", lambda: None)
    model = explained_model()
    files = {**model.files, "background.json": b"{}"}
    asked = msgspec.msgpack.encode(Asked(Question("no background", model.manifest, files, (), ())))
    looked_for = msgspec.msgpack.encode(Asked(lookup=Lookup("no such folder", "x", Limits())))
    (reader, writer), (replies, answering) = os.pipe(), os.pipe()
    with (
        os.fdopen(writer, "wb") as questions,
        os.fdopen(answering, "wb") as answers,
        os.fdopen(reader, "rb") as incoming,
    ):
        for one in (looked_for, asked):
            questions.write(len(one).to_bytes(4, "big") + one)
        questions.flush()
        serve(incoming, answers, idle_seconds=0.01)
        questions.close()
        serve(incoming, answers, idle_seconds=60)
    with os.fdopen(replies, "rb") as told:
        frames = []
        while head := told.read(4):
            frames.append(told.read(int.from_bytes(head, "big")))
    ready, found, warm, reply, ready_again = frames
    assert ready == warm == ready_again == b""
    assert msgspec.msgpack.decode(found, type=Answer) == Answer(search=Search())
    error = msgspec.msgpack.decode(reply, type=Answer)
    assert error.raised == "CannotExplain"
    assert error.message.startswith("background.json: ")


def test_of_two_frames_that_come_together_the_second_is_seen():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as answers, os.fdopen(writing, "wb") as written:
        explain_process._write(written, b"")
        explain_process._write(written, b"the answer")
        assert explain_process._read(answers) == b""
        assert explain_process._is_readable(answers, 0)
        assert explain_process._read(answers) == b"the answer"
        assert not explain_process._is_readable(answers, 0)
