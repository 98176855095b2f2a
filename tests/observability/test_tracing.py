"""What a collector receives."""

import sys
from collections.abc import Iterator

import pytest

from headrace.errors import GenerationError, StartupError
from headrace.observability.tracing import Tracing
from headrace.types import Timings
from tests.observability.collector import Collector, attributes_of, collecting

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TIMINGS = Timings(queue_time=0.25, prefill_time=0.5, decode_time=1.0, num_cached_tokens=1)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def traced(collector: Collector, headers: dict[str, str], error: Exception | None = None) -> None:
    tracing = Tracing(collector.url, "a service")
    try:
        with tracing.request("generate", headers):
            if error is not None:
                raise error
            tracing.record_finish(
                TIMINGS, validation_time=0.125, num_prompt_tokens=7, num_generated_tokens=3, seed=9
            )
    finally:
        tracing.close()


def test_a_request(collector: Collector) -> None:
    traced(collector, {"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert collector.names == {"a service"}
    assert sorted(collector.spans) == ["decode", "generate", "infer", "prefill", "queued"]
    spans = {name: span for name, (span,) in collector.spans.items()}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    parents = {name: span.parent_span_id for name, span in spans.items()}
    generate, infer = spans["generate"].span_id, spans["infer"].span_id
    assert parents == {
        "generate": bytes.fromhex(PARENT), "queued": generate, "infer": generate,
        "prefill": infer, "decode": infer,
    }  # fmt: skip
    assert attributes_of(spans["generate"]) == {
        "total_time": 1.875, "validation_time": 0.125, "queue_time": 0.25, "inference_time": 1.5,
        "time_per_token": 0.5, "seed": "9",
        "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3,
    }  # fmt: skip
    seconds = {
        name: (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
        for name, span in spans.items()
    }
    assert (seconds["queued"], seconds["infer"]) == pytest.approx((0.25, 1.5))
    assert (seconds["prefill"], seconds["decode"]) == pytest.approx((0.5, 1.0))
    assert spans["queued"].end_time_unix_nano == spans["prefill"].start_time_unix_nano


@pytest.mark.parametrize("header", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01"])
def test_a_request_without_a_usable_parent_is_a_root(collector: Collector, header: str) -> None:
    traced(collector, {"traceparent": header})
    (span,) = collector.spans["generate"]
    assert span.parent_span_id == b"" and span.trace_id != bytes(16)


def test_a_failure(collector: Collector) -> None:
    with pytest.raises(GenerationError):
        traced(collector, {}, GenerationError("broken"))
    (span,) = collector.spans["generate"]
    assert "broken" in span.status.message and span.status.code == 2


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(StartupError, match=r"--otlp-endpoint .* pip install 'headrace\[tracing\]'"):
        Tracing("http://127.0.0.1:1", "x")
