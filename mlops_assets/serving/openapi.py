"""The documents that describe the service: JSON Schema of a model's input, OpenAPI of all routes, and the page that shows it."""

import re
from typing import Any

from mlops_assets.core.manifest import FeatureContract, Manifest
from mlops_assets.serving.openapi_explain import explain_path, explanation_schema
from mlops_assets.serving.openapi_parts import HEADERS, POST_FAILURES, failures
from mlops_assets.serving.openapi_v2 import V2_SCHEMAS, V2_SERVER_PATHS, v2_paths

DOCS_PAGE = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Predictions</title>
<link rel="stylesheet" href="./static_content/swagger-ui.css">
<link rel="icon" href="./static_content/favicon-light-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js"></script>
<script src="./static_content/swagger-ui-standalone-preset.js"></script>
<script src="./static_content/swagger-initializer.js"></script>
</body>
</html>
"""
# What the page needs of BentoML's files, by path. Other paths there do not reach BentoML, which keeps a label for each it sees.
DOCS_FILES = frozenset(re.findall(r"/static_content/[\w.-]+", DOCS_PAGE.decode()))

_TIME = {"type": "string", "format": "date-time", "description": "RFC 3339 with a time zone"}
_KEY = {"type": "string", "minLength": 1, "maxLength": 200}
_JSON_TYPES = {"number": "number", "integer": "integer", "boolean": "boolean", "category": "string"}


def request_schema(manifest: Manifest) -> dict[str, Any]:
    """JSON Schema of a predict request: one row, or `rows` with many.

    Known ranges and levels appear as `x-` keywords where the domain is open, since a value outside it is answered and flagged.
    """
    row = _row_schema(manifest)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Input of {manifest.model}, version {manifest.version}",
        "anyOf": [{"$ref": "#/$defs/row"}, _many("rows", {"$ref": "#/$defs/row"})],
        "$defs": {"row": row},
    }


def openapi_document(manifests: list[Manifest], *, keys: bool = False) -> dict[str, Any]:
    """OpenAPI 3.1 of the service with these models loaded.

    Parameters
    ----------
    keys
        Whether callers must show an API key.
    """
    paths: dict[str, Any] = {"/v1/models": _get("Which models answer, since when, from which release", ["models"])}
    schemas: dict[str, Any] = {"Error": _ERROR, **V2_SCHEMAS}
    for manifest in manifests:
        model = manifest.model
        schemas[f"{model}.Row"] = _row_schema(manifest)
        schemas[f"{model}.Prediction"] = _prediction_schema(manifest)
        schemas[f"{model}.Explanation"] = explanation_schema(manifest, schemas[f"{model}.Prediction"])
        schemas[f"{model}.Label"] = _label_schema(manifest)
        paths[f"/v1/models/{model}/predict"] = _post(
            f"Predict {manifest.label} for one row or many", model, f"{model}.Row", "rows", f"{model}.Prediction"
        )
        paths[f"/v1/models/{model}/feedback"] = _post(
            f"Report the truth about {manifest.label}, or another named value", model, f"{model}.Label", "labels", None
        )
        paths[f"/v1/models/{model}/schema"] = _get("JSON Schema of the input", [model])
        paths |= explain_path(manifest)
        paths |= v2_paths(manifest)
    for path, summary in (
        ("/livez", "Is the process alive?"),
        ("/readyz", "Can it answer?"),
        ("/metrics", "Prometheus metrics"),
    ):
        paths[path] = _get(summary, ["operation"], "text/plain")
    paths |= V2_SERVER_PATHS
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlops-assets predictions", "version": "1"},
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {"schemas": schemas, **({"securitySchemes": schemes} if keys else {})},
        **({"security": [{name: []} for name in schemes]} if keys else {}),
    }


def _row_schema(manifest: Manifest) -> dict[str, Any]:
    features = {
        "type": "object",
        "properties": {feature.name: _feature_schema(feature, manifest) for feature in manifest.features},
        "required": [feature.name for feature in manifest.features if not feature.nullable],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {
            "features": features,
            "id": {**_KEY, "description": "becomes the prediction id; one is made if left out"},
            "entity": {**_KEY, "description": f"what the prediction is about ({manifest.entity_key})"},
            "event_time": {**_TIME, "description": "RFC 3339 with a time zone; the time of serving if left out"},
            "probe": {"type": "boolean", "default": False, "description": "a test: logged as such, and never counted"},
        },
        "required": ["features"],
        "additionalProperties": False,
    }


def _feature_schema(feature: FeatureContract, manifest: Manifest) -> dict[str, Any]:
    kind = _JSON_TYPES[feature.type]
    return {
        "type": [kind, "null"] if feature.nullable else kind,
        **({"description": feature.description} if feature.description else {}),
        **({"x-unit": feature.unit} if feature.unit else {}),
        **{f"{_prefix(feature)}{name}": value for name, value in _limits(feature).items() if value is not None},
        "x-missing": manifest.imputation[feature.name].strategy,
    }


def _limits(feature: FeatureContract) -> dict[str, Any]:
    if not feature.closed:
        return {"minimum": feature.minimum, "maximum": feature.maximum, "levels": feature.levels}
    levels = None if feature.levels is None else [*feature.levels, *([None] if feature.nullable else [])]
    return {"minimum": feature.minimum, "maximum": feature.maximum, "enum": levels}


def _prefix(feature: FeatureContract) -> str:
    return "" if feature.closed else "x-known-"


def _prediction_schema(manifest: Manifest) -> dict[str, Any]:
    names = {"type": "array", "items": {"type": "string"}}
    properties: dict[str, Any] = {
        "prediction_id": _KEY,
        "model": {"const": manifest.model},
        "model_version": {"type": "integer"},
        "release": {"type": "integer"},
        "role": {"type": "string"},
        "degraded": {"type": "boolean", "description": "said when neither champion nor challenger answered"},
        "prediction": {"enum": list(manifest.classes)} if manifest.classes else {"type": "number"},
        "imputed": names,
        "out_of_domain": names,
    }
    if manifest.task == "binary":
        properties["probability"] = {"type": "number", "description": f"of {manifest.classes[-1]!r}"}
    elif manifest.task == "multiclass":
        probability = {str(name): {"type": "number"} for name in manifest.classes}
        properties["probabilities"] = {"type": "object", "properties": probability}
    return {"type": "object", "properties": properties}


def _label_schema(manifest: Manifest) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "id": {**_KEY, "description": "of the prediction; or give entity and event_time"},
            "entity": _KEY,
            "event_time": _TIME,
            "name": {**_KEY, "default": manifest.label},
            "value": {"enum": list(manifest.classes)} if manifest.classes else {"type": "number"},
            "observed_at": {**_TIME, "description": "RFC 3339 with a time zone; now if left out"},
            "revision": {"type": "integer", "minimum": 0, "default": 0, "description": "a correction has a higher one"},
        },
        "required": ["value"],
        "additionalProperties": False,
    }


_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}, "field": {"type": "string"}},
            "required": ["code", "message"],
        }
    },
}


def _many(key: str, item: dict[str, Any]) -> dict[str, Any]:
    items = {"type": "array", "items": item, "minItems": 1}
    return {"type": "object", "properties": {key: items}, "required": [key], "additionalProperties": False}


def _post(summary: str, model: str, request: str, key: str, answer: str | None) -> dict[str, Any]:
    row = {"$ref": f"#/components/schemas/{request}"}
    accepted = {"type": "object", "properties": {"accepted": {"type": "integer"}}}
    one = {"$ref": f"#/components/schemas/{answer}"}
    reply = accepted if answer is None else {"anyOf": [one, _many("predictions", one)]}
    return {
        "post": {
            "summary": summary,
            "description": HEADERS,
            "tags": [model],
            "requestBody": {"required": True, **_content({"anyOf": [row, _many(key, row)]})},
            "responses": {"200": {"description": "Logged and answered", **_content(reply)}, **failures(*POST_FAILURES)},
        }
    }


def _get(summary: str, tags: list[str], media: str = "application/json") -> dict[str, Any]:
    responses = {"200": {"description": "OK", "content": {media: {}}}, **failures("401", "403", "405", "503")}
    return {"get": {"summary": summary, "tags": tags, "responses": responses}}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}
