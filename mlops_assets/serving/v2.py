"""The Open Inference Protocol (V2) over HTTP: its tensors become the rows of an ordinary predict request, and its answers tensors.

So that what is asked this way is checked, routed, scored and logged by the very same code. HTTP itself is in `app.py`.

A missing value is `null` in JSON, as NaN is not JSON; in the binary tensor extension it is NaN in a floating-point tensor. A
feature that may be missing can be left out altogether.
"""

import re
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
import numpy as np

from mlops_assets.core.manifest import FeatureContract, Manifest
from mlops_assets.serving.contract import field_names, refusal_of
from mlops_assets.serving.errors import Refusal

MEDIA_TYPES = (b"application/json", b"application/octet-stream")
JSON_SIZE_HEADER = b"inference-header-content-length"

_Value = float | str | bool | None
_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/infer)?")
NUMERIC_TYPES = {
    "FP64": "<f8", "FP32": "<f4", "FP16": "<f2", "BOOL": "?",
    "INT64": "<i8", "INT32": "<i4", "INT16": "<i2", "INT8": "i1",
    "UINT64": "<u8", "UINT32": "<u4", "UINT16": "<u2", "UINT8": "u1",
}  # fmt: skip
_FEATURE_TYPES = {"number": "FP64", "integer": "FP64", "boolean": "BOOL", "category": "BYTES"}
_BY_ROW = ("id", "entity", "event_time")
_PARAMETERS = (*_BY_ROW, "probe", "binary_data_output")
# What clients of other servers send along, and what has no meaning here.
_IGNORED = frozenset({"priority", "timeout", "sequence_id", "sequence_start", "sequence_end"})


class Target(msgspec.Struct, frozen=True):
    """What a path asks for: metadata, ready or infer, of a model, in a version where the path names one."""

    what: str
    model: str
    version: str | None


class Metadata(msgspec.Struct, omit_defaults=True):
    """One input or output of a model; -1 stands for the number of rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct):
    """The answer to `GET /v2/models/<name>`."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: list[Metadata]
    outputs: list[Metadata]


class Inference(msgspec.Struct):
    """An infer request as the predict request that it stands for, and how its answer is wanted."""

    predict: bytes
    id: str | None
    outputs: tuple[str, ...]
    binary: frozenset[str]


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Input]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[_Output] = []


class _Answered(msgspec.Struct, omit_defaults=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Response(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_Answered]
    id: str | None = None
    parameters: dict[str, Any] = {}


class _Prediction(msgspec.Struct):
    prediction_id: str
    prediction: float | int | str
    imputed: tuple[str, ...]
    out_of_domain: tuple[str, ...]
    probability: float = 0.0
    probabilities: dict[str, float] = {}
    model_version: int | None = None
    role: str | None = None


class _Predictions(msgspec.Struct):
    model: str
    model_version: int
    release: int
    role: str
    predictions: list[_Prediction]
    degraded: bool = False


_FIELDS = {"": field_names(_Request), "inputs[]": field_names(_Input), "outputs[]": field_names(_Output)}
_READ_REQUEST = msgspec.json.Decoder(_Request).decode
_READ_PREDICTIONS = msgspec.json.Decoder(_Predictions).decode


def target(path: str) -> Target | None:
    """What a path below `/v2/models/` asks for; None where there is no such path."""
    match = _PATH.fullmatch(path)
    return Target((match[3] or "/metadata")[1:], match[1], match[2]) if match else None


def server_metadata() -> bytes:
    """The answer to `GET /v2`."""
    try:
        number = version("mlops-assets")
    except PackageNotFoundError:  # a built Bento carries the code without its package
        number = "unknown"
    return msgspec.json.encode({"name": "mlops-assets", "version": number, "extensions": ["binary_tensor_data"]})


def model_metadata(manifest: Manifest) -> ModelMetadata:
    """Inputs, one per feature, and outputs of a model; integers are FP64 too, so that NaN can say that one is missing."""
    inputs = [Metadata(one.name, _FEATURE_TYPES[one.type], (-1,)) for one in manifest.features]
    outputs = [Metadata(name, datatype, (-1, *rest)) for name, (datatype, rest) in _outputs(manifest).items()]
    return ModelMetadata(manifest.model, (str(manifest.version),), "mlops-assets", inputs, outputs)


def error_body(refusal: Refusal) -> bytes:
    """The protocol's form of an error, a text, which names the field where there is one."""
    return msgspec.json.encode({"error": str(refusal)})


def json_size(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """How many bytes of the body are JSON, where binary tensors follow. Raises `Refusal` 400 for what is no number."""
    for name, value in headers:
        if name == JSON_SIZE_HEADER:
            if not value.isdigit() or len(value) > 18:
                raise Refusal(400, "malformed_request", "Inference-Header-Content-Length is not a number")
            return int(value)
    return None


def read_inference(manifest: Manifest, body: bytes, json_size: int | None, max_rows: int) -> Inference:
    """Turn an infer request into a predict request. What its values must be is left to the model's contract.

    Parameters
    ----------
    json_size
        Of the body, how many bytes are JSON; None for all of it.

    Raises
    ------
    Refusal
        400 for what is no infer request, 413 for too many rows, 422 for tensors that do not fit together.
    """
    if json_size is not None and json_size > len(body):
        raise Refusal(400, "malformed_request", "Inference-Header-Content-Length is larger than the body")
    head, rest = body[:json_size], b"" if json_size is None else body[json_size:]
    try:
        request = _READ_REQUEST(head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refusal_of(error, head, _FIELDS) from None
    rows = _row_count(request.inputs, max_rows)
    features = {feature.name: feature for feature in manifest.features}
    columns: dict[str, list[_Value]] = {}
    for position, tensor in enumerate(request.inputs):
        if tensor.name in columns:
            raise Refusal(422, "invalid_value", f"the input {tensor.name!r} is there twice", f"inputs[{position}].name")
        values, rest = _values(tensor, rows, rest, f"inputs[{position}]")
        columns[tensor.name] = _as_sent(features.get(tensor.name), tensor.datatype, values)
    if rest:
        raise Refusal(422, "invalid_value", f"{len(rest)} bytes follow the last binary tensor", "inputs")
    items = _items(columns, request.parameters, rows)
    names, binary = _wanted(manifest, request)
    return Inference(msgspec.json.encode({"rows": items}), request.id, names, binary)


def answer_inference(manifest: Manifest, inference: Inference, answer: bytes) -> tuple[bytes, int | None]:
    """Turn the answer to the predict request into that of the infer request.

    Returns
    -------
    bytes
        The body.
    int or None
        How many bytes of it are JSON; None for all of it.
    """
    answered = _READ_PREDICTIONS(answer)
    rows = answered.predictions
    values: dict[str, Callable[[_Prediction], Any]] = {
        "prediction": lambda row: row.prediction,
        "probability": lambda row: row.probability,
        "probabilities": lambda row: list(row.probabilities.values()),
        "prediction_id": lambda row: row.prediction_id,
        "model_version": lambda row: row.model_version or answered.model_version,
        "role": lambda row: row.role or answered.role,
        "imputed": lambda row: msgspec.json.encode(row.imputed).decode(),
        "out_of_domain": lambda row: msgspec.json.encode(row.out_of_domain).decode(),
    }
    known, outputs, tail = _outputs(manifest), [], []
    for name in inference.outputs:
        datatype, rest = known[name]
        column = [values[name](row) for row in rows]
        data = [value for row in column for value in row] if rest else column
        if datatype == "BYTES":
            data = list(map(str, data))
        tensor = _Answered(name, datatype, (len(rows), *rest))
        if name == "probabilities":
            tensor.parameters["classes"] = msgspec.json.encode(manifest.classes).decode()
        if name in inference.binary:
            tail.append(_packed(datatype, data))
            tensor.parameters["binary_data_size"] = len(tail[-1])
        else:
            tensor.data = data
        outputs.append(tensor)
    parameters: dict[str, Any] = {"release": answered.release, "role": answered.role}
    if answered.degraded:
        parameters["degraded"] = True
    head = msgspec.json.encode(
        _Response(answered.model, str(answered.model_version), outputs, inference.id, parameters)
    )
    return b"".join((head, *tail)), len(head) if tail else None


def _outputs(manifest: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and further dimensions of each output, in the order of the answer."""
    if manifest.task == "regression":
        kind = "FP64"
    else:
        kind = "BYTES" if any(isinstance(one, str) for one in manifest.classes) else "INT64"
    outputs: dict[str, tuple[str, tuple[int, ...]]] = {"prediction": (kind, ())}
    if manifest.task == "binary":
        outputs["probability"] = ("FP64", ())
    elif manifest.task == "multiclass":
        outputs["probabilities"] = ("FP64", (len(manifest.classes),))
    outputs |= {"prediction_id": ("BYTES", ()), "model_version": ("INT64", ()), "role": ("BYTES", ())}
    return outputs | {"imputed": ("BYTES", ()), "out_of_domain": ("BYTES", ())}


def _row_count(inputs: list[_Input], max_rows: int) -> int:
    if not inputs:
        raise Refusal(422, "invalid_value", "the list is empty", "inputs")
    rows = inputs[0].shape[0] if inputs[0].shape else 0
    for position, tensor in enumerate(inputs):
        if tensor.shape not in ([rows], [rows, 1]) or rows < 1:
            message = f"expected the shape [{max(rows, 1)}] or [{max(rows, 1)}, 1], one value a row, got {tensor.shape}"
            raise Refusal(422, "invalid_value", message, f"inputs[{position}].shape")
    if rows > max_rows:
        raise Refusal(413, "too_many_rows", f"{rows} rows, at most {max_rows} are allowed in one request", "inputs")
    return rows


def _values(tensor: _Input, rows: int, rest: bytes, field: str) -> tuple[list[_Value], bytes]:
    """The values of a tensor, one a row, and what of the binary part is left after it."""
    if tensor.datatype != "BYTES" and tensor.datatype not in NUMERIC_TYPES:
        message = f"expected one of {', '.join(['BYTES', *NUMERIC_TYPES])}, got {tensor.datatype!r}"
        raise Refusal(422, "invalid_value", message, f"{field}.datatype")
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if tensor.data is None:
            raise Refusal(422, "missing_field", "this field is required", f"{field}.data")
        # One column may be nested, one list a row, or flat.
        data = [one for row in tensor.data for one in (row if isinstance(row, list) else [row])]
    else:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest) or tensor.data is not None:
            message = f"expected a size of at most the {len(rest)} bytes that are left, and no 'data'"
            raise Refusal(422, "invalid_value", message, f"{field}.parameters.binary_data_size")
        data, rest = _unpacked(tensor.datatype, rest[:size], field), rest[size:]
    if len(data) != rows:
        raise Refusal(422, "invalid_value", f"expected {rows} values, got {len(data)}", f"{field}.data")
    return data, rest


def _unpacked(datatype: str, packed: bytes, field: str) -> list[Any]:
    if datatype != "BYTES":
        kind = np.dtype(NUMERIC_TYPES[datatype])
        if len(packed) % kind.itemsize:
            message = f"{len(packed)} bytes are no whole number of {datatype} values"
            raise Refusal(422, "invalid_value", message, f"{field}.data")
        column = np.frombuffer(packed, kind)
        if kind.kind == "f" and np.isinf(column).any():
            raise Refusal(422, "invalid_value", "expected finite numbers, or NaN for missing ones", f"{field}.data")
        values: list[Any] = column.tolist()
        return [None if value != value else value for value in values]
    texts, place = [], 0
    while place < len(packed):
        end = place + 4 + int.from_bytes(packed[place : place + 4], "little")
        if end > len(packed):
            raise Refusal(422, "invalid_value", "a text ends after the tensor does", f"{field}.data")
        try:
            texts.append(packed[place + 4 : end].decode())
        except UnicodeDecodeError:
            raise Refusal(422, "invalid_value", "a text is not UTF-8", f"{field}.data") from None
        place = end
    return texts


def _packed(datatype: str, values: list[Any]) -> bytes:
    if datatype != "BYTES":
        return np.array(values, NUMERIC_TYPES[datatype]).tobytes()
    texts = [value.encode() for value in values]
    return b"".join(part for text in texts for part in (len(text).to_bytes(4, "little"), text))


def _as_sent(feature: FeatureContract | None, datatype: str, values: list[_Value]) -> list[_Value]:
    """Values as a predict request has them: clients without null send booleans as numbers, among which NaN says missing."""
    if feature is None or feature.type != "boolean" or datatype in ("BOOL", "BYTES"):
        return values
    return [bool(value) if value in (0, 1) else value for value in values]


def _items(columns: dict[str, list[_Value]], parameters: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    for name in parameters:
        if name not in _PARAMETERS and name not in _IGNORED:
            message = f"there is no such parameter: choose from {', '.join(_PARAMETERS)}"
            raise Refusal(422, "unknown_field", message, f"parameters.{name}")
    names = list(columns)
    items: list[dict[str, Any]] = [
        {"features": dict(zip(names, row, strict=True))} for row in zip(*columns.values(), strict=True)
    ]
    for name in _BY_ROW:
        if name not in parameters:
            continue
        given = parameters[name]
        by_row = given if isinstance(given, list) else [given]
        if len(by_row) != rows:
            raise Refusal(422, "invalid_value", f"expected a list of {rows}, one a row", f"parameters.{name}")
        for item, value in zip(items, by_row, strict=True):
            item[name] = value
    if "probe" in parameters:
        for item in items:
            item["probe"] = parameters["probe"]
    return items


def _wanted(manifest: Manifest, request: _Request) -> tuple[tuple[str, ...], frozenset[str]]:
    """The names of the outputs to answer with, and those of them in binary."""
    known = _outputs(manifest)
    everything = request.parameters.get("binary_data_output", False)
    outputs = request.outputs or [_Output(name) for name in known]
    for position, output in enumerate(outputs):
        if output.name not in known:
            message = f"there is no output {output.name[:100]!r}: choose from {', '.join(known)}"
            raise Refusal(422, "invalid_value", message, f"outputs[{position}].name")
    names = tuple(dict.fromkeys(output.name for output in outputs))
    return names, frozenset(one.name for one in outputs if one.parameters.get("binary_data", everything) is True)
