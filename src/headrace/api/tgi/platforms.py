"""POST /invocations (SageMaker) and /vertex (Vertex AI): other routes in a platform's envelope."""

from typing import Annotated, Any

import orjson
from pydantic import Discriminator, RootModel, Tag
from starlette.responses import Response

from headrace.api.errors import DialectError, error_body, to_tgi_response
from headrace.api.events import EventStream
from headrace.api.openai.chat import chat_completions
from headrace.api.openai.completions import completions
from headrace.api.openai.schemas import ChatRequest, CompletionRequest
from headrace.api.openai.translate import translate_chat
from headrace.api.parameters import check_count
from headrace.api.schema import Body
from headrace.api.service import Service
from headrace.api.tgi.generate import compat_generate, generation_request
from headrace.api.tgi.schemas import CompatGenerateRequest, GenerateRequest
from headrace.errors import GenerationError, HeadraceError
from headrace.text.generation import GenerationRequest

KEYS = {"inputs": "generate", "messages": "chat", "prompt": "completion"}


def _kind(body: Any) -> str | None:
    """Which request it is: the first of the keys that it has, in TGI's order."""
    if not isinstance(body, dict):
        return None
    return next((kind for key, kind in KEYS.items() if key in body), None)


def _untagged(name: str) -> Discriminator:
    message = f"data did not match any variant of untagged enum {name}"
    return Discriminator(_kind, custom_error_type="untagged", custom_error_message=message)


class InvocationRequest(
    RootModel[
        Annotated[
            Annotated[CompatGenerateRequest, Tag("generate")]
            | Annotated[ChatRequest, Tag("chat")]
            | Annotated[CompletionRequest, Tag("completion")],
            _untagged("SagemakerRequest"),
        ]
    ]
):
    """POST /invocations: the body of POST /, of a chat, or of a completion."""


class VertexRequest(Body):
    """POST /vertex: bodies of /generate and of chats."""

    instances: list[
        Annotated[
            Annotated[GenerateRequest, Tag("generate")] | Annotated[ChatRequest, Tag("chat")],
            _untagged("VertexInstance"),
        ]
    ]


async def invocations(service: Service, body: InvocationRequest) -> Response | EventStream:
    """What the route for such a body answers."""
    match body.root:
        case ChatRequest():
            return await chat_completions(service, body.root)
        case CompletionRequest():
            return await completions(service, body.root)
        case _:
            return await compat_generate(service, body.root)


async def _translate(
    service: Service, instance: GenerateRequest | ChatRequest
) -> GenerationRequest:
    if isinstance(instance, ChatRequest):
        check_count("n", 1 if instance.n is None else instance.n, 1)
        return (await translate_chat(service, instance)).request
    check_count("best_of", instance.parameters.best_of or 1, 1)
    parameters = instance.parameters.model_copy(update={"do_sample": True})
    sampling = instance.model_copy(update={"parameters": parameters})
    return generation_request(service, sampling, stream=False)


async def vertex(service: Service, body: VertexRequest) -> Response:
    """One text per instance."""
    if not body.instances:
        raise DialectError("Input validation error", "Input validation error")
    requests = [await _translate(service, instance) for instance in body.instances]
    generations = await service.generate(requests)
    answer = {"predictions": [generation.text for generation in generations]}
    return Response(orjson.dumps(answer), media_type="application/json")


def to_vertex_response(error: HeadraceError) -> Response:
    """TGI's errors, but failures of the engine are 500."""
    if not isinstance(error, GenerationError):
        return to_tgi_response(error)
    body = error_body("Incomplete generation", "incomplete_generation")
    return Response(body, 500, media_type="application/json")
