"""OpenTelemetry traces: a span for each sampled call, and one for each stage of its answer.

Spans are made when a call has ended, from times that were taken anyway, so that a call that is not sampled
costs a look at its metadata. They carry methods, codes and numbers, and neither ids nor text. OpenTelemetry
is an extra: this module is imported where traces are wanted.
"""

import random
import time
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    StatusCode,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.telemetry.stages import AnswerStage, TracedCall

_SERVICE = "triptych"
_TRACEPARENT, _TRACESTATE = "traceparent", "tracestate"  # of metadata: W3C Trace Context
_SERVER_ERRORS = frozenset(
    (2, 4, 12, 13, 14, 15)
)  # codes that OpenTelemetry counts as a gRPC server's errors
_SEND_SECONDS = 5


class CallTracer:
    """Chooses the calls that are traced, and sends their spans to a collector; threads may share it."""

    def __init__(self, endpoint: str, ratio: float) -> None:
        """Send spans by OTLP over gRPC, on a thread of its own.

        Args:
            endpoint: host:port of the collector, or a URL; https:// for TLS.
            ratio: of calls that are traced, among those whose caller does not say.
        """
        exporter = OTLPSpanExporter(endpoint, not endpoint.startswith("https://"), timeout=_SEND_SECONDS)
        self._provider = TracerProvider(resource=Resource.create({"service.name": _SERVICE}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(_SERVICE)
        self._ratio = ratio

    def sampled(
        self, method: str, metadata: Sequence[tuple[str, str | bytes]], began: float
    ) -> TracedCall | None:
        """Return a call that is traced, None for one that is not: the caller decides, else the ratio."""
        for key, _ in metadata:
            if key == _TRACEPARENT:
                break
        else:
            return TracedCall(method, Context(), began) if self._is_drawn() else None
        carrier = {key: str(value) for key, value in metadata if key in (_TRACEPARENT, _TRACESTATE)}
        context = TraceContextTextMapPropagator().extract(carrier)
        caller = get_current_span(context).get_span_context()
        if caller.is_valid and not caller.trace_flags.sampled:
            return None
        if caller.is_valid:
            return TracedCall(method, context, began, format_trace_id(caller.trace_id))
        return TracedCall(method, Context(), began) if self._is_drawn() else None

    def end(self, call: TracedCall, code: int, ended: float, stages: Sequence[AnswerStage]) -> None:
        """Make the span of a call that was answered alone, and those of its stages below it."""
        span = self._span_of(call, code)
        self._add_stages(span, stages)
        span.end(_at(ended))

    def end_together(
        self,
        calls: Sequence[tuple[TracedCall, int]],
        size: int,
        began: float,
        ended: float,
        stages: Sequence[AnswerStage],
    ) -> None:
        """Make the spans of calls that were answered together.

        The stages lie below a span of the micro-batch, a trace of its own that links to those of its calls,
        and they link to it.

        Args:
            calls: those that are traced, with their codes.
            size: the number of all calls of the micro-batch.
            began: when the micro-batch was begun.
            ended: when the replies were made.
            stages: of the micro-batch.
        """
        spans = [self._span_of(call, code) for call, code in calls]
        links = [Link(span.get_span_context()) for span in spans]
        batch = self._tracer.start_span("micro-batch", Context(), links=links, start_time=_at(began))
        batch.set_attribute("triptych.calls", size)
        self._add_stages(batch, stages)
        batch.end(_at(ended))
        for span in spans:
            span.add_link(batch.get_span_context())
            span.end(_at(ended))

    def shutdown(self) -> None:
        """Send the spans that wait, and end."""
        self._provider.shutdown()

    def _is_drawn(self) -> bool:
        return random.random() < self._ratio  # noqa: S311  # no secret

    def _span_of(self, call: TracedCall, code: int) -> Span:
        service, _, method = call.method.partition("/")
        span = self._tracer.start_span(call.method, call.context, SpanKind.SERVER, start_time=_at(call.began))
        span.set_attributes({"rpc.system": "grpc", "rpc.service": service, "rpc.method": method})
        span.set_attribute("rpc.grpc.status_code", code)
        if code in _SERVER_ERRORS:
            span.set_status(StatusCode.ERROR)
        return span

    def _add_stages(self, parent: Span, stages: Sequence[AnswerStage]) -> None:
        context = set_span_in_context(parent, Context())
        for stage in stages:
            self._tracer.start_span(stage.name, context, start_time=_at(stage.began)).end(_at(stage.ended))


def _at(moment: float) -> int:
    """Return a moment of `time.perf_counter` as nanoseconds since 1970."""
    return time.time_ns() - int((time.perf_counter() - moment) * 1e9)
