"""POST /v1/messages and /v1/messages/count_tokens."""

from dataclasses import replace

import orjson
from starlette.responses import Response

from headrace.api.anthropic.answers import MessageEncoder, message_object
from headrace.api.anthropic.schemas import (
    UNSUPPORTED,
    UNSUPPORTED_IN_MESSAGES,
    CountTokensRequest,
    MessagesRequest,
)
from headrace.api.anthropic.translate import chat_request, prompt_fields
from headrace.api.events import EventStream
from headrace.api.openai.chat_turn import render_prompt
from headrace.api.openai.schemas import ChatRequest
from headrace.api.openai.translate import translate_chat
from headrace.api.schema import reject_unsupported
from headrace.api.segments import ReplySegments
from headrace.api.service import Service


async def messages(service: Service, body: MessagesRequest) -> Response | EventStream:
    """One message, or a stream of events."""
    reject_unsupported(body, UNSUPPORTED_IN_MESSAGES)
    turn = await translate_chat(service, chat_request(service, body))
    request = replace(turn.request, keep_stop_text=False)
    reply = ReplySegments(turn.new_parser)
    deltas = service.stream([request])
    if body.stream:
        return EventStream(deltas, MessageEncoder(body.model, reply), {})
    await reply.read(deltas)
    answer = message_object(body.model, reply)
    return Response(orjson.dumps(answer), media_type="application/json")


async def count_tokens(service: Service, body: CountTokensRequest) -> Response:
    """How long the prompt of these messages is."""
    reject_unsupported(body, UNSUPPORTED)
    prompt = await render_prompt(service, ChatRequest(**prompt_fields(service, body)))
    encoding = await service.frontend.tokenize(prompt.text, add_special_tokens=False)
    answer = {"input_tokens": len(encoding.ids)}
    return Response(orjson.dumps(answer), media_type="application/json")
