"""Spans of requests for an OpenTelemetry collector, by OTLP over gRPC, as TGI sends them.

One span per request, under the `traceparent` that came with it, and below it where each sequence
spent its time. Costs nothing unless it is switched on; needs the extra `tracing`.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from headrace import __version__
from headrace.errors import StartupError
from headrace.types import Timings


class Tracing:
    """Sends spans to the collector at `endpoint`, for example http://localhost:4317.

    Raises StartupError when OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, service_name: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        except ImportError as error:
            raise StartupError(
                f"--otlp-endpoint needs OpenTelemetry ({error}); "
                "install it with: pip install 'headrace[tracing]'"
            ) from None
        resource = Resource({SERVICE_NAME: service_name, SERVICE_VERSION: __version__})
        exporter = OTLPSpanExporter(endpoint, insecure=not endpoint.startswith("https://"))
        self._provider = TracerProvider(ALWAYS_ON, resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("headrace", __version__)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    @contextmanager
    def request(self, name: str, headers: Mapping[str, str]) -> Iterator[None]:
        """The span of one request; its failure is the span's."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract(headers)
        with self._tracer.start_as_current_span(name, context, SpanKind.SERVER):
            yield

    def record_finish(
        self,
        timings: Timings,
        *,
        validation_time: float,
        num_prompt_tokens: int,
        num_generated_tokens: int,
        seed: int | None,
    ) -> None:
        """Describe, below the current request's span, a sequence that ends now. Times in seconds,
        under TGI's names; token counts under OpenTelemetry's."""
        from opentelemetry.trace import get_current_span

        inference_time = timings.prefill_time + timings.decode_time
        attributes: dict[str, float | int | str] = {
            "total_time": validation_time + timings.queue_time + inference_time,
            "validation_time": validation_time,
            "queue_time": timings.queue_time,
            "inference_time": inference_time,
            "time_per_token": inference_time / max(1, num_generated_tokens),
            "seed": str(seed),
            "gen_ai.usage.input_tokens": num_prompt_tokens,
            "gen_ai.usage.output_tokens": num_generated_tokens,
        }
        get_current_span().set_attributes(attributes)
        self._record_stages(timings)

    def _record_stages(self, timings: Timings) -> None:
        from opentelemetry.trace import set_span_in_context

        end = time.time_ns()
        last = end - round(timings.decode_time * 1e9)
        first = last - round(timings.prefill_time * 1e9)
        arrival = first - round(timings.queue_time * 1e9)
        self._tracer.start_span("queued", start_time=arrival).end(first)
        infer = self._tracer.start_span("infer", start_time=first)
        below = set_span_in_context(infer)
        self._tracer.start_span("prefill", below, start_time=first).end(last)
        self._tracer.start_span("decode", below, start_time=last).end(end)
        infer.end(end)
