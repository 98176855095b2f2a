"""POST /v1/messages and /v1/messages/count_tokens."""

from dataclasses import replace

import orjson
from starlette.responses import Response

from headrace.api.anthropic.answers import MessageEncoder, whole_message
from headrace.api.anthropic.schemas import (
    UNSUPPORTED,
    UNSUPPORTED_IN_MESSAGES,
    CountTokensRequest,
    MessagesRequest,
)
from headrace.api.anthropic.translate import chat_messages, chat_request
from headrace.api.events import EventStream
from headrace.api.openai.chat_turn import render_prompt
from headrace.api.openai.schemas import ChatRequest
from headrace.api.openai.translate import translate_chat
from headrace.api.schema import reject_unsupported
from headrace.api.service import Service


async def messages(service: Service, body: MessagesRequest) -> Response | EventStream:
    """One message, or a stream of events."""
    reject_unsupported(body, UNSUPPORTED_IN_MESSAGES)
    turn = await translate_chat(service, chat_request(body))
    request = replace(turn.request, keep_stop_text=False)
    if body.stream:
        return EventStream(service.stream([request]), MessageEncoder(body.model), {})
    (generation,) = await service.generate([request])
    answer = whole_message(body.model, generation)
    return Response(orjson.dumps(answer), media_type="application/json")


async def count_tokens(service: Service, body: CountTokensRequest) -> Response:
    """How long the prompt of these messages is."""
    reject_unsupported(body, UNSUPPORTED)
    chat = ChatRequest(messages=chat_messages(body))
    prompt = await render_prompt(service, chat)
    encoding = await service.frontend.tokenize(prompt.text, add_special_tokens=False)
    answer = {"input_tokens": len(encoding.ids)}
    return Response(orjson.dumps(answer), media_type="application/json")
