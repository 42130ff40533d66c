"""The Open Inference Protocol: the same answers, checks and records as our own route, as tensors."""

import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest

INFER = "/v2/models/delay/infer"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppUnderTest]:
    home = Home(tmp_path_factory.mktemp("v2"))
    for name, task in (("delay", "binary"), ("kind", "multiclass"), ("air", "regression")):
        release(home, small_model(name, task))  # type: ignore[arg-type]
    with AppUnderTest(home, max_rows=50) as app:
        yield app


def tensor(name: str, datatype: str, data: list[Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data, **more}


def tensors(rows: list[dict[str, Any]], name: str = "delay") -> list[dict[str, Any]]:
    kinds = {"number": "FP64", "integer": "INT64", "boolean": "BOOL", "category": "BYTES"}
    return [
        tensor(one.name, kinds[one.type], [row.get(one.name) for row in rows])
        for one in small_model(name).manifest.features
    ]


def column(answer: dict[str, Any], name: str) -> Any:
    (found,) = [one for one in answer["outputs"] if one["name"] == name]
    return found["data"]


def distance(*values: Any) -> list[dict[str, Any]]:
    return [tensor("distance", "FP64", list(values))]


class TestMetadata:
    def test_the_server_says_who_it_is(self, app: AppUnderTest):
        assert app.get("/v2").json()["extensions"] == ["binary_tensor_data"]
        assert app.get("/v2/health/live").json() == {"live": True}
        assert app.get("/v2/health/ready").json() == {"ready": True}

    @pytest.mark.parametrize("path", ["/v2/models/delay", "/v2/models/delay/versions/1"])
    def test_a_model_tells_its_inputs_and_outputs(self, app: AppUnderTest, path: str):
        told = app.get(path).json()
        assert (told["name"], told["versions"]) == ("delay", ["1"])
        assert [one["datatype"] for one in told["inputs"]] == ["FP64", "FP64", "BOOL", "BYTES", "BYTES", "FP64"]
        assert {"name": "probability", "datatype": "FP64", "shape": [-1]} in told["outputs"]

    def test_probabilities_of_many_classes_are_a_matrix(self, app: AppUnderTest):
        assert {"name": "probabilities", "datatype": "FP64", "shape": [-1, 3]} in app.get("/v2/models/kind").json()[
            "outputs"
        ]

    @pytest.mark.parametrize("path", ["/v2/models/delay/ready", "/v2/models/delay/versions/1/ready"])
    def test_a_model_that_answers_is_ready(self, app: AppUnderTest, path: str):
        assert app.get(path).json() == {"name": "delay", "ready": True}

    @pytest.mark.parametrize(
        "path",
        [
            "/v2/models/none",
            "/v2/models/none/ready",
            "/v2/models/delay/versions/2",
            "/v2/nowhere",
            "/v2/models",
            "/v2/",
        ],
    )
    def test_what_is_not_there_is_said_in_the_protocols_form(self, app: AppUnderTest, path: str):
        answer = app.get(path)
        assert answer.status_code == 404
        assert list(answer.json()) == ["error"]
        assert isinstance(answer.json()["error"], str)


class TestAnswers:
    @pytest.mark.parametrize("shape", [[30], [30, 1]])
    def test_they_equal_those_of_our_own_route(self, app: AppUnderTest, shape: list[int]):
        rows = small_model().request_rows(30)
        inputs = [{**one, "shape": shape} for one in tensors(rows)]
        if len(shape) == 2:
            inputs = [{**one, "data": [[value] for value in one["data"]]} for one in inputs]

        answer = app.post(INFER, {"inputs": inputs, "id": "r-1"}).json()

        own = app.post("/v1/models/delay/predict", {"rows": [{"features": row} for row in rows]}).json()["predictions"]
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("r-1", "delay", "1")
        assert answer["parameters"] == {"release": 1, "role": "champion"}
        assert column(answer, "probability") == [one["probability"] for one in own]
        assert column(answer, "prediction") == [one["prediction"] for one in own]
        assert [json.loads(one) for one in column(answer, "imputed")] == [one["imputed"] for one in own]
        assert any(one["imputed"] for one in own)

    def test_many_classes(self, app: AppUnderTest):
        answer = app.post("/v2/models/kind/versions/1/infer", {"inputs": distance(100, 2000)}).json()
        own = app.post("/v1/models/kind/predict", {"features": {"distance": 100}}).json()
        (matrix,) = [one for one in answer["outputs"] if one["name"] == "probabilities"]
        assert matrix["shape"] == [2, 3]
        assert matrix["data"][:3] == list(own["probabilities"].values())
        assert json.loads(matrix["parameters"]["classes"]) == ["early", "late", "on time"]
        assert column(answer, "prediction")[0] == own["prediction"]

    def test_a_regression(self, app: AppUnderTest):
        answer = app.post("/v2/models/air/infer", {"inputs": distance(100)}).json()
        own = app.post("/v1/models/air/predict", {"features": {"distance": 100}}).json()
        assert column(answer, "prediction") == [own["prediction"]]

    def test_only_what_is_wanted_is_answered(self, app: AppUnderTest):
        body = {"inputs": distance(5), "outputs": [{"name": "role"}, {"name": "prediction_id"}]}
        answer = app.post(INFER, body).json()
        assert [one["name"] for one in answer["outputs"]] == ["role", "prediction_id"]

    def test_ids_entities_and_times_come_as_parameters_and_are_on_record(self, app: AppUnderTest):
        parameters = {
            "id": ["a-1", "a-2"],
            "entity": ["UA 1", None],
            "event_time": ["2013-03-01T00:00:00Z", "2013-03-02T00:00:00Z"],
            "probe": True,
        }
        answer = app.post(INFER, {"inputs": distance(100, 200), "parameters": parameters}).json()

        assert column(answer, "prediction_id") == ["a-1", "a-2"]
        records = app.predictions()[-2:]
        assert [(one.id, one.entity, one.event_time, one.probe, one.role) for one in records] == [
            ("a-1", "UA 1", datetime(2013, 3, 1, tzinfo=UTC), True, "champion"),
            ("a-2", None, datetime(2013, 3, 2, tzinfo=UTC), True, "champion"),
        ]

    def test_a_text_is_enough_for_one_row(self, app: AppUnderTest):
        app.post(INFER, {"inputs": distance(1), "parameters": {"id": "one", "timeout": 5}})
        assert app.predictions()[-1].id == "one"


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "status", "why"),
        [
            (b"{", 400, "malformed_json"),
            (b'{"inputs":[{"name":"distance","datatype":"FP64","shape":[1],"data":[NaN]}]}', 422, "send null"),
            ({}, 422, "missing_field at inputs"),
            ({"inputs": []}, 422, "inputs"),
            ({"inputs": distance(1), "more": 1}, 422, "unknown_field at more"),
            ({"inputs": distance(1), "more": 1}, 422, "there are inputs, id, parameters, outputs"),
            (
                {"inputs": [tensor("distance", "FP64", [1], type=1)]},
                422,
                "there are name, shape, datatype, data, parameters",
            ),
            ({"inputs": distance("far")}, 422, "rows[0].features.distance"),
            ({"inputs": distance(None)}, 422, "rows[0].features.distance"),
            ({"inputs": [*distance(1, 2), tensor("temp", "FP64", [1])]}, 422, "inputs[1].shape"),
            ({"inputs": [tensor("distance", "FP64", [1], shape=[2])]}, 422, "expected 2 values, got 1"),
            ({"inputs": [tensor("distance", "FP64", [1], shape=[])]}, 422, "inputs[0].shape"),
            ({"inputs": [tensor("distance", "FP64", [], shape=[0])]}, 422, "inputs[0].shape"),
            ({"inputs": [tensor("distance", "FP64", [1], shape=[-1])]}, 422, "inputs[0].shape"),
            ({"inputs": distance(*range(51))}, 413, "at most 50"),
            ({"inputs": [tensor("distance", "FP99", [1])]}, 422, "inputs[0].datatype"),
            ({"inputs": distance(1) + distance(1)}, 422, "there twice"),
            ({"inputs": [*distance(1), tensor("color", "BYTES", ["red"])]}, 422, "rows[0].features.color"),
            ({"inputs": [{"name": "distance", "datatype": "FP64", "shape": [1]}]}, 422, "inputs[0].data"),
            ({"inputs": distance(1), "parameters": {"entitiy": "x"}}, 422, "parameters.entitiy"),
            ({"inputs": distance(1), "parameters": {"id": ["a", "b"]}}, 422, "parameters.id"),
            ({"inputs": distance(1, 2), "parameters": {"id": ["a", "a"]}}, 422, "used twice"),
            ({"inputs": distance(1), "outputs": [{"name": "color"}]}, 422, "outputs[0].name"),
            ({"inputs": distance({"a": 1})}, 422, "rows[0].features.distance"),
            ({"inputs": distance(10**400)}, 422, "distance"),
        ],
    )
    def test_what_does_not_fit_is_refused_by_name(self, app: AppUnderTest, body: Any, status: int, why: str):
        answer = app.post(INFER, body)
        assert answer.status_code == status, answer.text
        assert why in answer.json()["error"]

    def test_the_wrong_method_and_media_type(self, app: AppUnderTest):
        assert app.get(INFER).status_code == 405
        assert app.request("POST", INFER, b"{}", **{"content-type": "text/plain"}).status_code == 415

    def test_a_refusal_is_on_record_as_on_our_own_route(self, app: AppUnderTest):
        app.post(INFER, {"inputs": distance("far")})
        record = app.predictions()[-1]
        assert record.status == 422
        assert "features.distance" in (record.error or "")


class TestBinary:
    """The binary tensor extension, which clients of Triton use unless they are told not to."""

    def ask(self, app: AppUnderTest, request: dict[str, Any], *parts: bytes, size: str | None = None) -> Any:
        head = json.dumps(request).encode()
        headers = {"inference-header-content-length": size or f"{len(head)}"}
        return app.request("POST", INFER, b"".join((head, *parts)), **headers)

    def test_missing_is_nan(self, app: AppUnderTest):
        packed = {
            "distance": np.array([100.0, 2000.0]).tobytes(),
            "temp": np.array([np.nan, 60.0], "<f4").tobytes(),
            "holiday": np.array([1.0, np.nan]).tobytes(),
            "carrier": b"".join(struct.pack("<I", len(one)) + one for one in (b"AA", "é".encode())),
        }
        kinds = {"distance": "FP64", "temp": "FP32", "holiday": "FP64", "carrier": "BYTES"}
        inputs = [
            {"name": name, "shape": [2], "datatype": kinds[name], "parameters": {"binary_data_size": len(data)}}
            for name, data in packed.items()
        ]
        answer = self.ask(app, {"inputs": inputs}, *packed.values()).json()

        rows = [
            {"distance": 100.0, "holiday": True, "carrier": "AA"},
            {"distance": 2000.0, "temp": 60.0, "carrier": "é"},
        ]
        own = app.post("/v1/models/delay/predict", {"rows": [{"features": row} for row in rows]}).json()["predictions"]
        assert column(answer, "probability") == [one["probability"] for one in own]
        assert [json.loads(one) for one in column(answer, "out_of_domain")] == [[], ["carrier"]]

    def test_answers_are_binary_where_that_is_wanted(self, app: AppUnderTest):
        outputs = [
            {"name": "probability", "parameters": {"binary_data": True}},
            {"name": "role", "parameters": {"binary_data": True}},
            {"name": "prediction"},
        ]
        answer = app.post(INFER, {"inputs": distance(1, 2), "outputs": outputs})

        assert answer.headers["content-type"] == "application/octet-stream"
        size = int(answer.headers["inference-header-content-length"])
        head = json.loads(answer.content[:size])
        sizes = [one.get("parameters", {}).get("binary_data_size") for one in head["outputs"]]
        assert sizes == [16, 24, None]
        assert np.frombuffer(answer.content[size : size + 16]).shape == (2,)
        assert answer.content[size + 16 :] == (struct.pack("<I", 8) + b"champion") * 2

    @pytest.mark.parametrize(
        ("size", "data", "why"),
        [
            (8, np.array([np.inf]).tobytes(), "finite"),
            (7, b"1234567", "whole number of FP64"),
            (16, b"12345678", "at most the 8 bytes"),
            (-1, b"12345678", "at most the 8 bytes"),
            (True, b"12345678", "at most the 8 bytes"),
            (8, b"123456789", "1 bytes follow"),
        ],
    )
    def test_bytes_that_do_not_fit_are_refused(self, app: AppUnderTest, size: Any, data: bytes, why: str):
        one = {"name": "distance", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": size}}
        answer = self.ask(app, {"inputs": [one]}, data)
        assert answer.status_code == 422
        assert why in answer.json()["error"]

    @pytest.mark.parametrize("data", [b"\x02\x00\x00\x00A", b"\xff\xff\xff\xff", b"\x01", b"\x01\x00\x00\x00\xff"])
    def test_texts_that_do_not_fit_are_refused(self, app: AppUnderTest, data: bytes):
        size = {"binary_data_size": len(data)}
        one = {"name": "carrier", "shape": [1], "datatype": "BYTES", "parameters": size}
        assert self.ask(app, {"inputs": [one, *distance(1)]}, data).status_code == 422

    @pytest.mark.parametrize("size", ["abc", "-1", "99999", "9" * 100])
    def test_a_wrong_size_of_the_json_is_refused(self, app: AppUnderTest, size: str):
        assert self.ask(app, {"inputs": distance(1)}, size=size).status_code == 400


def test_an_unready_service_says_so(tmp_path: Path):
    home = Home(tmp_path)
    release(home, small_model(), damage=lambda files: files.pop("golden.json"))
    with AppUnderTest(home) as app:
        assert app.get("/v2/health/ready").status_code == 503
        assert app.get("/v2/health/live").status_code == 200
        assert app.get("/v2/models/delay/ready").status_code == 503
        assert "error" in app.get("/v2/models/delay").json()
