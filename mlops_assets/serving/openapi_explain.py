"""The part of the OpenAPI document on explanations. What the route does is in `explain.py`."""

from typing import Any

from mlops_assets.core.manifest import Manifest
from mlops_assets.serving.openapi_parts import EXPLAIN_FAILURES, failures

_BY_ID = {
    "type": "object",
    "properties": {
        "prediction_id": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "description": "of an answer that is on record",
        }
    },
    "required": ["prediction_id"],
    "additionalProperties": False,
}
_DESCRIPTION = (
    "With keys on, a row asks for the scope `predict`, an answer on record for the scope `explain`. What makes explanations is "
    "started in each worker with its first one, which may be answered 503 with the code `starting`: ask again after `Retry-After`."
)
_ANSWERED = ("prediction_id", "model", "model_version", "release", "role", "prediction", "probability", "probabilities")


def explain_path(manifest: Manifest) -> dict[str, Any]:
    """The route of one model."""
    row, answer = ({"$ref": f"#/components/schemas/{manifest.model}.{name}"} for name in ("Row", "Explanation"))
    return {
        f"/v1/models/{manifest.model}/explain": {
            "post": {
                "summary": f"What each feature adds to a prediction of {manifest.label}: of a row, or of an answer on record",
                "description": _DESCRIPTION,
                "tags": [manifest.model],
                "requestBody": {"required": True, **_content({"anyOf": [row, _BY_ID]})},
                "responses": {
                    "200": {"description": "Explained; nothing is logged", **_content(answer)},
                    **failures(*EXPLAIN_FAILURES),
                },
            }
        }
    }


def explanation_schema(manifest: Manifest, prediction: dict[str, Any]) -> dict[str, Any]:
    """The answer of that route.

    Parameters
    ----------
    prediction
        The schema of a predict request's answer.
    """
    answered = {name: schema for name, schema in prediction["properties"].items() if name in _ANSWERED}
    number = {"type": "number"}
    features = [feature.name for feature in manifest.features]
    contribution = {
        "type": "object",
        "properties": {
            "feature": {"enum": features},
            "value": {"type": ["number", "string", "boolean", "null"], "description": "as received"},
            "contribution": number,
            "imputed": {"type": "boolean", "default": False},
            "out_of_domain": {"type": "boolean", "default": False},
        },
        "required": ["feature", "value", "contribution"],
    }
    own: dict[str, Any] = {
        "space": {"enum": ["log-odds", "probability", "value"], "description": "what contributions are counted in"},
        "explained_value": {**number, "description": "base_value plus all contributions"},
        "base_value": {**number, "description": "mean over rows of the training"},
        "contributions": {
            "type": "array",
            "items": contribution,
            "minItems": len(features),
            "maxItems": len(features),
            "description": "what matters most first",
        },
    }
    if manifest.classes:
        own["explained_class"] = {"enum": list(manifest.classes)}
    required = ["prediction_id", "model", "model_version", "release", "role", "prediction", *own]
    return {"type": "object", "properties": {**answered, **own}, "required": required}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}
