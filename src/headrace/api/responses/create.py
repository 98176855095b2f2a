"""POST /v1/responses."""

from dataclasses import replace

import orjson
from starlette.responses import Response

from headrace.api.compute_headers import generation_headers, stream_headers
from headrace.api.events import EventStream
from headrace.api.openai.parts import served_name
from headrace.api.openai.translate import translate_chat
from headrace.api.responses.answers import ResponseObject
from headrace.api.responses.events import ResponseEncoder
from headrace.api.responses.items import Items
from headrace.api.responses.schemas import UNSUPPORTED, ResponsesRequest
from headrace.api.responses.translate import chat_request, wants_logprobs
from headrace.api.schema import reject_unsupported
from headrace.api.segments import ReplySegments
from headrace.api.service import Service


async def create_response(service: Service, body: ResponsesRequest) -> Response | EventStream:
    """One object, or a stream of typed events."""
    reject_unsupported(body, UNSUPPORTED)
    turn = await translate_chat(service, chat_request(body))
    request = replace(turn.request, keep_stop_text=False)
    items = Items(with_logprobs=wants_logprobs(body))
    response = ResponseObject(body, served_name(service, body.model), items)
    reply, deltas = ReplySegments(turn.new_parser), service.stream([request])
    compute_type, num_characters = service.compute_type, len(request.prompt)
    if body.stream:
        headers = stream_headers(compute_type, num_characters)
        return EventStream(deltas, ResponseEncoder(response, reply), headers)
    finish = await reply.read(deltas)
    answer = response.finished(reply, finish)
    headers = generation_headers(compute_type, num_characters, [finish], reply.prompt.num_tokens)
    return Response(orjson.dumps(answer), 200, headers, "application/json")
