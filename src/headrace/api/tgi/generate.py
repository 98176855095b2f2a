"""POST /generate, /generate_stream and the compatible POST /."""

from typing import Any

import orjson
from starlette.responses import Response

from headrace.api.compute_headers import generation_headers, stream_headers
from headrace.api.events import EventStream
from headrace.api.parameters import GenerateParameters, to_generation_request
from headrace.api.ranking import rank
from headrace.api.service import Service
from headrace.api.tgi.answers import TokenEncoder, details_object
from headrace.api.tgi.schemas import CompatGenerateRequest, GenerateRequest
from headrace.text.generation import Generation, GenerationRequest


def _full_text_of(body: GenerateRequest) -> str:
    return body.inputs if body.parameters.return_full_text else ""


def _wants_details(parameters: GenerateParameters) -> bool:
    return parameters.details or parameters.decoder_input_details


def generation_request(
    service: Service, body: GenerateRequest, *, stream: bool
) -> GenerationRequest:
    """The body in the front end's terms. Raises ValidationError."""
    parameters = body.parameters
    best_of = parameters.best_of or 1
    wants_logprobs = stream or best_of > 1 or _wants_details(parameters)
    return to_generation_request(
        body.inputs,
        parameters,
        service.limits,
        stream=stream,
        n=best_of,
        add_special_tokens=body.add_special_tokens,
        keep_stop_text=True,
        num_top_logprobs=(parameters.top_n_tokens or 0) if wants_logprobs else None,
        prompt_logprobs=parameters.decoder_input_details,
    )


def _answer(body: GenerateRequest, generations: list[Generation]) -> dict[str, Any]:
    best, *others = rank(generations)
    answer: dict[str, Any] = {"generated_text": _full_text_of(body) + best.text}
    if _wants_details(body.parameters):
        with_top_tokens = bool(body.parameters.top_n_tokens)
        answer["details"] = details_object(
            best, others, _full_text_of(body), with_top_tokens=with_top_tokens
        )
    return answer


async def _generate(service: Service, body: GenerateRequest) -> tuple[Any, dict[str, str]]:
    generations = await service.generate([generation_request(service, body, stream=False)])
    headers = generation_headers(
        service.compute_type,
        len(body.inputs),
        [generation.finish for generation in generations],
        generations[0].prompt.num_tokens,
    )
    return _answer(body, generations), headers


async def generate(service: Service, body: GenerateRequest) -> Response:
    """One JSON object."""
    answer, headers = await _generate(service, body)
    return Response(orjson.dumps(answer), 200, headers, "application/json")


async def generate_stream(service: Service, body: GenerateRequest) -> EventStream:
    """One event per token, no `[DONE]`."""
    deltas = service.stream([generation_request(service, body, stream=True)])
    encoder = TokenEncoder(details=body.parameters.details, full_text_of=_full_text_of(body))
    headers = stream_headers(service.compute_type, len(body.inputs))
    return EventStream(deltas, encoder, headers)


async def compat_generate(service: Service, body: CompatGenerateRequest) -> Response | EventStream:
    """A list of one object, or events; `return_full_text` has a default of its own."""
    if body.parameters.return_full_text is None:
        full_text = service.model.pipeline_tag in (None, "text-generation")
        parameters = body.parameters.model_copy(update={"return_full_text": full_text})
        body = body.model_copy(update={"parameters": parameters})
    if body.stream:
        return await generate_stream(service, body)
    answer, headers = await _generate(service, body)
    return Response(orjson.dumps([answer]), 200, headers, "application/json")
