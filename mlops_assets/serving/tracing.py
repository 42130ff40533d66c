"""OpenTelemetry spans of a share of the requests, joined to the prediction log by the prediction's id.

Where they are sent is told by the standard `OTEL_*` variables. A span costs more than an answer: it is made of sampled requests
alone, from what is known when the answer is ready.
"""

import random
import time
from collections.abc import Iterable

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mlops_assets.serving.asking import Turn

_MOST_IDS = 100
_NOBODY = Context()


class TracingUnavailable(RuntimeError):
    """Spans are asked for, and what sends them is not installed."""


class Traces:
    """Makes the spans of one worker.

    Parameters
    ----------
    share
        Of the requests without a parent, in [0, 1]. One whose `traceparent` says that it is sampled always is, one whose parent is
        not never is.
    processor
        Takes the spans that are made.
    """

    def __init__(self, share: float, processor: SpanProcessor) -> None:
        self._share = share
        self._provider = TracerProvider(resource=Resource.create({"service.name": "mlops-assets"}))
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("mlops_assets.serving")
        self._propagator = TraceContextTextMapPropagator()

    def sampled(self, headers: Iterable[tuple[bytes, bytes]]) -> Context | None:
        """The parent of a request's span, which may be nobody; None where the request is to have no span."""
        for name, value in headers:
            if name == b"traceparent":
                context = self._propagator.extract({"traceparent": value.decode("latin-1")}, _NOBODY)
                parent = trace.get_current_span(context).get_span_context()
                if parent.is_valid:
                    return context if parent.trace_flags.sampled else None
        return _NOBODY if random.random() < self._share else None

    def record(
        self, parent: Context, method: str, model: str, route: str, status: int, seconds: float, turn: Turn | None
    ) -> None:
        """Make the span of a request whose answer was ready after so many seconds."""
        ended = time.time_ns()
        span = self._tracer.start_span(
            f"{method} {route}", parent, trace.SpanKind.SERVER, start_time=ended - int(seconds * 1e9)
        )
        span.set_attribute("http.request.method", method)
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("mlops.model", model)
        if turn is not None:
            answered = turn.answerers or [turn.live]
            span.set_attribute("mlops.release", turn.live.plan.release)
            span.set_attribute("mlops.version", answered[0].manifest.version)
            span.set_attribute("mlops.role", answered[0].role)
            span.set_attribute("mlops.scoring_ms", turn.scoring_s * 1e3)
            span.set_attribute("mlops.rows", len(turn.records))
            span.set_attribute("mlops.prediction_ids", [record.id for record in turn.records[:_MOST_IDS]])
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        span.end(ended)

    def close(self) -> None:
        """Send what has not been sent yet. Takes as long as the receiver does, up to the exporter's own limit."""
        self._provider.shutdown()


def open_traces(share: float) -> Traces | None:
    """Spans to the receiver that `OTEL_EXPORTER_OTLP_ENDPOINT` names; None where the share is 0.

    Raises
    ------
    TracingUnavailable
        Where the extra `tracing` is not installed.
    """
    if share == 0:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise TracingUnavailable("MLOPS_TRACE_SHARE is set: install the extra mlops-assets[tracing]") from error
    return Traces(share, BatchSpanProcessor(OTLPSpanExporter()))
