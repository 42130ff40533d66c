"""A drill's callers note what became of each row, under an id by which the log knows it too."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from mlops_assets.drills.caller import Caller, Tally
from mlops_assets.operations.client import ServiceError

ROWS = [{"entity": "E1", "features": {}}, {"id": "mine", "features": {}}]


def caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[httpx.Request], httpx.Response]
) -> Caller:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    one = Caller("http://127.0.0.1:9", Tally())
    one._http = httpx.Client(base_url="http://127.0.0.1:9", transport=httpx.MockTransport(answer))
    return one


def answered(request: httpx.Request) -> httpx.Response:
    body = json.loads(request.content)
    if "labels" in body:
        return httpx.Response(200, json={"accepted": len(body["labels"])})
    told = {"model": "delay", "release": 3, "role": "champion", "model_version": 1, "prediction": 0.5}
    rows = [{"prediction_id": row["id"], "probability": 0.5} for row in body["rows"]]
    return httpx.Response(200, json={**told, "predictions": rows})


def test_each_row_has_an_id_and_each_label_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = caller(tmp_path, monkeypatch, answered)
    one.predict_many("delay", [dict(row) for row in ROWS])
    one.feedback("delay", [{"id": "mine", "value": 1}])
    tally = one._tally
    assert [known.outcome for known in tally.asked] == ["answered", "answered"]
    assert [known.entity for known in tally.asked] == ["E1", "mine"]
    assert tally.asked[1].id == "mine"
    assert [known.id for known in tally.acknowledged] == [known.id for known in tally.asked]
    assert tally.labels == 1


@pytest.mark.parametrize(("status", "outcome"), [(503, "refused"), (429, "refused"), (500, "failed")])
def test_what_is_not_answered_is_noted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, outcome: str):
    one = caller(tmp_path, monkeypatch, lambda _: httpx.Response(status, json={}))
    with pytest.raises(ServiceError):
        one.predict("delay", dict(ROWS[0]))
    assert [known.outcome for known in one._tally.asked] == [outcome]
    assert not one._tally.acknowledged


def test_a_broken_connection_is_noted_for_each_of_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("the worker was killed", request=request)

    one = caller(tmp_path, monkeypatch, broken)
    with pytest.raises(httpx.ReadError):
        one.predict_many("delay", [dict(row) for row in ROWS])
    assert [known.outcome for known in one._tally.asked] == ["unanswered", "unanswered"]
    assert one._tally.unanswered == 1
