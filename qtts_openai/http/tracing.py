"""When each stage of a request began, and OpenTelemetry spans of that if `server.traces` names a
collector.

A request to /v1 is one span, a child of the caller's if it sent `traceparent`; below it there is
one span for each stage: prepare, queue, prefill, first frame, first chunk, encode, send. While the
request runs only the moments are noted; the spans are made at its end, so tracing delays no audio.
"""

import itertools
import os
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from engine import SpeechStream
from qtts_openai.settings import SettingsError

# Each stage and the moment it begins at; it ends where the next one that is known begins.
STAGES = (
    ("prepare", "read"),
    ("queue", "queued"),
    ("prefill", "started"),
    ("first frame", "prefilled"),
    ("first chunk", "framed"),
    ("encode", "heard"),
    ("send", "encoded"),
    ("", "sent"),
)


class Timeline:
    """Moments by time.monotonic; the first of a name counts. `stream` is what the engine speaks
    first for the request.
    """

    def __init__(self, span: Any = None) -> None:
        self.span = span
        self.stream: SpeechStream | None = None
        self._at: dict[str, float] = {}

    def mark(self, moment: str) -> None:
        self._at.setdefault(moment, time.monotonic())

    def stages(self) -> list[tuple[str, float, float]]:
        """(name, begin, end) of those that are known, in order of time."""
        timing = self.stream.timing if self.stream is not None else None
        moments = dict(self._at)
        if timing is not None:
            moments |= {name: getattr(timing, name) for name in ("started", "prefilled", "framed")}
        known = [(name, moments[at]) for name, at in STAGES if moments.get(at)]
        pairs = itertools.pairwise(known)
        return [(name, begin, max(begin, end)) for (name, begin), (_, end) in pairs]

    def exemplar(self) -> dict[str, str] | None:
        """For a histogram: where to look for one request of a bucket."""
        context = self.span.get_span_context() if self.span is not None else None
        if context is None or not context.trace_flags.sampled:
            return None
        return {"trace_id": f"{context.trace_id:032x}"}


NOWHERE = Timeline()  # outside of requests; nobody reads it
current: ContextVar[Timeline] = ContextVar("timeline", default=NOWHERE)


class Tracer:
    """Spans go to the collector's OTLP port over HTTP. What OTEL_* variables say of sampling,
    headers and names counts.
    """

    def __init__(self, collector: str | None) -> None:
        self._provider: Any = None
        if collector is None:
            return
        try:
            from opentelemetry import propagate, trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            message = f"needs what `pip install 'qtts-openai[otel]'` brings ({error})"
            raise SettingsError(message, "server.traces") from error
        self._trace, self._propagate = trace, propagate
        os.environ.setdefault("OTEL_SERVICE_NAME", "qtts")
        self._provider = TracerProvider(resource=Resource.create())
        exporter = OTLPSpanExporter(endpoint=f"{collector.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("qtts_openai")

    def begin(self, path: str, method: str, headers: Mapping[bytes, bytes]) -> Timeline:
        if self._provider is None or not path.startswith("/v1"):
            return Timeline()
        names = (b"traceparent", b"tracestate", b"baggage")
        carrier = {
            name.decode(): headers[name].decode("latin-1") for name in names if name in headers
        }
        context = self._propagate.extract(carrier)
        kind = self._trace.SpanKind.SERVER
        return Timeline(self._tracer.start_span(method, context, kind))

    def end(self, timeline: Timeline, name: str, **attributes: str | int) -> None:
        """`attributes` have dots where the names given here have two underscores."""
        span = timeline.span
        if span is None or not span.is_recording():
            return
        timeline.mark("sent")
        below, offset_s = self._trace.set_span_in_context(span), time.time() - time.monotonic()
        for stage, begin, end in timeline.stages():
            child = self._tracer.start_span(stage, below, start_time=_ns(begin + offset_s))
            child.end(_ns(end + offset_s))
        span.update_name(name)
        span.set_attributes({key.replace("__", "."): value for key, value in attributes.items()})
        if int(attributes.get("http__response__status_code", 200)) >= 500:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Sends what waits; takes a while where no collector answers."""
        if self._provider is not None:
            self._provider.shutdown()


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
