"""Those whom the service is compared with, as their documentation would have them written; BentoML's is in `serving_bentoml.py`.

The limit is an application that does nothing: what is left is uvicorn, and a body in and out.
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

Message = MutableMapping[str, Any]
PIPELINE_VARIABLE = "BENCH_PIPELINE"


async def limit(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """Answer what was sent."""
    assert scope["type"] == "http"
    message = await receive()
    body: bytes = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def fastapi_joblib() -> "FastAPI":
    """A pickled pipeline behind a route that checks types and is run in FastAPI's pool of threads."""
    import joblib
    import pandas as pd
    from fastapi import FastAPI
    from pydantic import create_model

    pipeline = joblib.load(os.environ[PIPELINE_VARIABLE])
    fields: Any = dict.fromkeys(pipeline.feature_names_in_, (str | float | None, None))
    row = create_model("Row", **fields)
    app = FastAPI()

    @app.post("/predict")
    def predict(rows: list[row]) -> list[float]:  # type: ignore[valid-type]
        frame = pd.DataFrame([one.model_dump() for one in rows])  # type: ignore[attr-defined]
        found: list[float] = pipeline.predict_proba(frame)[:, 1].tolist()
        return found

    return app
