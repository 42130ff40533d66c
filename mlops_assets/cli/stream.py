"""What an operator types to have a stream of messages scored: `mlops-assets stream`. The service's own code does the work."""

import importlib.util
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlops_assets.cli.shared import stop

if TYPE_CHECKING:
    from mlops_assets.serving.stream import StreamScorer


def add_stream_command(app: typer.Typer) -> None:
    """Add `stream` to the command line."""
    app.command()(stream)


def stream(
    model: Annotated[str, typer.Argument(help="name of a released model")],
    url: Annotated[str, typer.Option("--nats", help="a NATS server with JetStream")] = "nats://127.0.0.1:4222",
    subject_in: Annotated[str, typer.Option(help="rows to score; left out: predict.<model>")] = "",
    subject_out: Annotated[str, typer.Option(help="their answers; left out: predictions.<model>")] = "",
    subject_dead: Annotated[str, typer.Option(help="what cannot be answered; left out: <subject-out>.dead")] = "",
    durable: Annotated[str, typer.Option(help="name of the consumer; left out: mlops-<model>")] = "",
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="messages in work at a time")] = 256,
    ack_wait: Annotated[
        float, typer.Option(min=1, help="seconds until a message of a dead process comes again")
    ] = 30.0,
    credentials: Annotated[Path | None, typer.Option(help="NATS credentials file")] = None,
) -> None:
    """Score the messages of a NATS JetStream subject until Ctrl-C, with the model in service. Needs the extra 'streaming'."""
    if importlib.util.find_spec("nats") is None:
        stop("nats-py is not installed: install mlops-assets[streaming]")
    import asyncio

    from mlops_assets.serving.settings import ServingSettings
    from mlops_assets.serving.stream import StreamScorer
    from mlops_assets.serving.stream_nats import StreamRefused, StreamSettings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    out = subject_out or f"predictions.{model}"
    settings = StreamSettings(
        model=model,
        url=url,
        subject_in=subject_in or f"predict.{model}",
        subject_out=out,
        subject_dead=subject_dead or f"{out}.dead",
        durable=durable or f"mlops-{model}",
        batch=batch,
        ack_wait_s=ack_wait,
        credentials=credentials,
    )
    try:
        asyncio.run(_until_told(StreamScorer(settings, ServingSettings.from_environment())))
    except (StreamRefused, ValueError) as error:
        stop(error)


async def _until_told(scorer: "StreamScorer") -> None:
    import asyncio

    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await scorer.run(stopping)
