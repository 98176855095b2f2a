"""Server-sent events of OpenAI's streaming routes -> `Record`. Knows no HTTP.

Hot file: it runs once per token, beside the server that is measured.
"""

from typing import Any

import orjson

from headrace.bench.record import Record

UNREADABLE = "unreadable chunk"
AFTER_DONE = "data after [DONE]"
AFTER_FINISH = "text after finish_reason"


class EventStream:
    """Takes in one response body in pieces cut anywhere.

    After `cancel_after` chunks with text the record is marked as cancelled and the rest ignored.
    """

    def __init__(self, record: Record, cancel_after: int | None) -> None:
        self._record = record
        self._cancel_after = cancel_after
        self._rest = b""

    def feed(self, data: bytes, now: float) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and not self._record.cancelled:
                self._take(line[5:].strip(), now)

    def _take(self, payload: bytes, now: float) -> None:
        record = self._record
        if record.num_done:
            record.faults.append(AFTER_DONE)
        if payload == b"[DONE]":
            record.num_done += 1
            return
        try:
            self._take_event(orjson.loads(payload), now)
        except (orjson.JSONDecodeError, AttributeError, TypeError):
            # Not JSON, or JSON of another shape: the server's fault, to be reported as such.
            record.faults.append(UNREADABLE)

    def _take_event(self, event: dict[str, Any], now: float) -> None:
        for choice in event.get("choices") or ():
            self._take_choice(choice, now)
        if usage := event.get("usage"):
            self._take_usage(usage)
        if error := event.get("error"):
            self._record.error = f"error event: {orjson.dumps(error).decode()[:200]}"

    def _take_choice(self, choice: dict[str, Any], now: float) -> None:
        record = self._record
        if (delta := choice.get("delta")) is None:
            text = choice.get("text")
        else:
            text = delta.get("content") or delta.get("reasoning_content")
        if text:
            if record.finish_reasons:
                record.faults.append(AFTER_FINISH)
            record.arrivals.append(now)
            record.pieces.append(text)
            record.cancelled = len(record.arrivals) == self._cancel_after
        if logprobs := choice.get("logprobs"):
            record.num_listed_tokens += len(logprobs.get("tokens") or logprobs.get("content") or ())
        if reason := choice.get("finish_reason"):
            record.finish_reasons.append(reason)

    def _take_usage(self, usage: dict[str, Any]) -> None:
        details = usage.get("prompt_tokens_details") or {}
        self._record.prompt_tokens = usage.get("prompt_tokens")
        self._record.cached_tokens = details.get("cached_tokens")
        self._record.completion_tokens = usage.get("completion_tokens")
