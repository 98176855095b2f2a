"""POST /tokenize and /chat_tokenize."""

from typing import Any

import orjson
from starlette.responses import Response

from headrace.api.openai.chat_turn import render_prompt
from headrace.api.openai.schemas import ChatRequest
from headrace.api.service import Service
from headrace.api.tgi.schemas import GenerateRequest


async def _tokens(service: Service, text: str, *, add_special_tokens: bool) -> list[dict[str, Any]]:
    """`start` and `stop` count bytes of the UTF-8 text."""
    encoding = await service.frontend.tokenize(text, add_special_tokens)
    byte_offsets = [0]
    for character in text:
        byte_offsets.append(byte_offsets[-1] + len(character.encode()))
    return [
        {
            "id": token_id,
            "text": text[start:stop],
            "start": byte_offsets[start],
            "stop": byte_offsets[stop],
        }
        for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
    ]


async def tokenize(service: Service, body: GenerateRequest) -> Response:
    """A list of tokens."""
    tokens = await _tokens(service, body.inputs, add_special_tokens=body.add_special_tokens)
    return Response(orjson.dumps(tokens), media_type="application/json")


async def chat_tokenize(service: Service, body: ChatRequest) -> Response:
    """The rendered chat template and its tokens."""
    text = (await render_prompt(service, body)).text
    tokens = await _tokens(service, text, add_special_tokens=False)
    answer = {"tokenize_response": tokens, "templated_text": text}
    return Response(orjson.dumps(answer), media_type="application/json")
