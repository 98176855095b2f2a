"""A server process that sends its spans to a collector."""

import httpx
import pytest

from tests.e2e.server import ServerProcess
from tests.observability.collector import attributes_of, collecting

pytestmark = pytest.mark.e2e

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_spans_of_all_kinds_of_requests() -> None:
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    body = {"inputs": "1, 2,", "parameters": {"max_new_tokens": 3, "seed": 5, "do_sample": True}}
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "n": 2}
    with collecting() as collector:
        arguments = ("--otlp-endpoint", collector.url, "--otlp-service-name", "mill")
        with ServerProcess(*arguments) as process:
            url = process.wait_ready().url
            httpx.post(f"{url}/generate", json=body, headers=headers, timeout=60)
            httpx.post(f"{url}/generate_stream", json=body, timeout=60)
            httpx.post(f"{url}/v1/chat/completions", json=chat, timeout=60)
            httpx.post(f"{url}/v1/messages", json={}, timeout=60)
            assert process.stop() == 0, "and sends what is left"
    assert collector.names == {"mill"}
    (generate,) = collector.spans["generate"]
    assert generate.trace_id.hex() == TRACE
    attributes = attributes_of(generate)
    assert (attributes["seed"], attributes["gen_ai.usage.output_tokens"]) == ("5", 3)
    assert attributes["total_time"] >= attributes["inference_time"] > 0
    (stream,) = collector.spans["generate_stream"]
    assert len({stream.trace_id, generate.trace_id}) == 2
    (chat_span,) = collector.spans["chat_completions"]
    own = [span for span in collector.spans["infer"] if span.trace_id == chat_span.trace_id]
    assert len(own) == 2 and all(span.parent_span_id == chat_span.span_id for span in own)
    assert "messages" not in collector.spans, "a body that cannot be read is no request yet"
