"""The BentoML service: packaging, workers, probes and metrics are BentoML's; requests are answered by `app.py` outside of it.

`service_class` is an undocumented parameter of `bentoml.service`; a contract test holds what is used of it.
"""

import logging
import os
from pathlib import Path
from typing import Any

import bentoml

from mlops_assets.serving.app import ServingApp
from mlops_assets.serving.http_protocol import speak
from mlops_assets.serving.json_logs import log_as_json
from mlops_assets.serving.runtime import ServingRuntime
from mlops_assets.serving.settings import ServingSettings
from mlops_assets.stores.home import ENVIRONMENT_VARIABLE, Home

CARRIED = "carried"


class PredictorService(bentoml.Service[Any]):  # type: ignore[misc]
    """A BentoML service whose worker processes answer through our application."""

    carried = Path(CARRIED)

    def to_asgi(self, is_main: bool = True) -> ServingApp:
        # uvicorn formats a line per request before it finds that nobody reads it; our metrics and log say more.
        logging.getLogger("uvicorn.access").propagate = False
        settings = ServingSettings.from_environment()
        if settings.log_format == "json":
            log_as_json()
        runtime = ServingRuntime(settings, self.carried)
        app = ServingApp(super().to_asgi(is_main), runtime)
        speak(app.at_once)
        return app


def predictor_service(folder: Path) -> bentoml.Service[Any]:
    """The service defined in `folder`, where a built Bento carries its plans and bundles.

    Workers are set by `MLOPS_WORKERS` (default 1).
    """

    class Service(PredictorService):
        carried = folder / CARRIED

    @bentoml.service(
        name="predictor",
        service_class=Service,
        workers=int(os.environ.get("MLOPS_WORKERS", "1")),
        traffic={"timeout": 2},
        logging={"access": {"enabled": False}},
    )
    class Predictor:
        """Answers for every released model."""

        @bentoml.on_deployment  # type: ignore[untyped-decorator]
        def pin_home() -> None:
            # Workers start in the folder of the service; relative to where the operator stands is what was meant.
            os.environ[ENVIRONMENT_VARIABLE] = str(Home.from_environment().root)

    return Predictor
