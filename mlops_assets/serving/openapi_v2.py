"""The part of the OpenAPI document on the Open Inference Protocol. What the routes do is in `v2.py`."""

from typing import Any

from mlops_assets.core.manifest import Manifest
from mlops_assets.serving.openapi_parts import HEADERS, POST_FAILURES, failures
from mlops_assets.serving.v2 import NUMERIC_TYPES

_SCALAR = {"type": ["number", "string", "boolean", "null"]}
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": -1}}
_PARAMETERS = {"type": "object"}


def _schema(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT = {"type": "string"}
_DATATYPE = {"enum": ["BYTES", *NUMERIC_TYPES]}

V2_SCHEMAS: dict[str, Any] = {
    "V2.Error": _object(("error",), error=_TEXT),
    "V2.Tensor": _object(("name", "datatype", "shape"), name=_TEXT, datatype=_DATATYPE, shape=_SHAPE),
    "V2.Model": _object(
        ("name", "versions", "platform", "inputs", "outputs"),
        name=_TEXT,
        versions=_list(_TEXT),
        platform=_TEXT,
        inputs=_list(_schema("V2.Tensor")),
        outputs=_list(_schema("V2.Tensor")),
    ),
    "V2.Output": _object(
        ("name", "datatype", "shape"),
        name=_TEXT,
        datatype=_DATATYPE,
        shape=_SHAPE,
        parameters=_PARAMETERS,
        data=_list(_SCALAR),
    ),
    "V2.Response": _object(
        ("model_name", "model_version", "outputs"),
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        parameters=_PARAMETERS,
        outputs=_list(_schema("V2.Output")),
    ),
    "V2.Server": _object(("name", "version", "extensions"), name=_TEXT, version=_TEXT, extensions=_list(_TEXT)),
}


def _get(summary: str, tag: str, schema: dict[str, Any], *statuses: str) -> dict[str, Any]:
    answer = {"description": "OK", "content": {"application/json": {"schema": schema}}}
    return {
        "get": {
            "summary": summary,
            "tags": [tag],
            "responses": {"200": answer, **failures("401", "403", "405", *statuses, error="V2.Error")},
        }
    }


V2_SERVER_PATHS: dict[str, Any] = {
    "/v2": _get("Name, version and extensions of the server", "operation", _schema("V2.Server")),
    "/v2/health/live": _get("Is the process alive?", "operation", _object(("live",), live={"type": "boolean"})),
    "/v2/health/ready": _get("Can it answer?", "operation", _object(("ready",), ready={"type": "boolean"}), "503"),
}


def v2_paths(manifest: Manifest) -> dict[str, Any]:
    """The protocol's routes of one model, with and without a version in the path."""
    model = manifest.model
    ready = _object(("name", "ready"), name=_TEXT, ready={"type": "boolean"})
    routes = {
        "": _get("Inputs and outputs of the model", model, _schema("V2.Model"), "404", "410", "503"),
        "/ready": _get("Can the model answer?", model, ready, "404", "410", "503"),
        "/infer": _infer(manifest),
    }
    version = {"name": "version", "in": "path", "required": True, "schema": {**_TEXT, "example": str(manifest.version)}}
    paths = {}
    for end, route in routes.items():
        paths[f"/v2/models/{model}{end}"] = route
        paths[f"/v2/models/{model}/versions/{{version}}{end}"] = {**route, "parameters": [version]}
    return paths


def _infer(manifest: Manifest) -> dict[str, Any]:
    by_row = {"type": ["string", "array"], "items": {"type": ["string", "null"]}}
    tensor = _object(
        ("name", "datatype", "shape", "data"),
        name={"enum": [feature.name for feature in manifest.features]},
        datatype=_DATATYPE,
        shape={**_SHAPE, "minItems": 1, "maxItems": 2},
        data=_list({"type": ["number", "string", "boolean", "null", "array"], "items": _SCALAR}),
        parameters=_PARAMETERS,
    )
    request = _object(
        ("inputs",),
        inputs={**_list(tensor), "minItems": 1},
        id=_TEXT,
        parameters={
            "type": "object",
            "properties": {
                "id": by_row,
                "entity": by_row,
                "event_time": by_row,
                "probe": {"type": "boolean"},
                "binary_data_output": {"type": "boolean"},
            },
        },
        outputs=_list(_object(("name",), name=_TEXT, parameters=_PARAMETERS)),
    )
    reply = {
        "application/json": {"schema": _schema("V2.Response")},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
    return {
        "post": {
            "summary": f"Predict {manifest.label}: one tensor a feature, one value a row",
            "description": HEADERS,
            "tags": [manifest.model],
            "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
            "responses": {
                "200": {"description": "Logged and answered", "content": reply},
                **failures(*POST_FAILURES, error="V2.Error"),
            },
        }
    }
