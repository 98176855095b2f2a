"""Every route, in one table. A new route is one handler and one line here."""

from dataclasses import replace

from headrace.api.anthropic.errors import to_anthropic_response
from headrace.api.anthropic.messages import count_tokens, messages
from headrace.api.anthropic.schemas import CountTokensRequest, MessagesRequest
from headrace.api.endpoint import Route
from headrace.api.errors import to_openai_response
from headrace.api.openai.chat import chat_completions
from headrace.api.openai.completions import completions
from headrace.api.openai.conventions import conventions_of
from headrace.api.openai.models import list_models
from headrace.api.openai.schemas import ChatRequest, CompletionRequest
from headrace.api.responses.create import create_response
from headrace.api.responses.schemas import ResponsesRequest
from headrace.api.tgi.generate import compat_generate, generate, generate_stream
from headrace.api.tgi.platforms import (
    InvocationRequest,
    VertexRequest,
    invocations,
    to_vertex_response,
    vertex,
)
from headrace.api.tgi.schemas import CompatGenerateRequest, GenerateRequest
from headrace.api.tgi.server import health, info, metrics
from headrace.api.tgi.tokenize import chat_tokenize, tokenize
from headrace.config import Settings

ROUTES: tuple[Route, ...] = (
    Route(method="POST", path="/", handler=compat_generate, body=CompatGenerateRequest,
          generates=True, summary="Generate; a list of one answer, or a stream"),
    Route(method="POST", path="/generate", handler=generate, body=GenerateRequest,
          generates=True, summary="Generate"),
    Route(method="POST", path="/generate_stream", handler=generate_stream, body=GenerateRequest,
          generates=True, summary="Generate, one event per token"),
    Route(method="POST", path="/tokenize", handler=tokenize, body=GenerateRequest,
          summary="Tokenize a text"),
    Route(method="POST", path="/chat_tokenize", handler=chat_tokenize, body=ChatRequest,
          is_open=True, summary="Render the chat template and tokenize the result"),
    Route(method="POST", path="/v1/chat/completions", handler=chat_completions, body=ChatRequest,
          error_response=to_openai_response, generates=True, summary="Chat (OpenAI)"),
    Route(method="POST", path="/v1/completions", handler=completions, body=CompletionRequest,
          error_response=to_openai_response, generates=True,
          summary="Continue one or several prompts (OpenAI)"),
    Route(method="POST", path="/v1/responses", handler=create_response, body=ResponsesRequest,
          error_response=to_openai_response, generates=True, summary="Respond (OpenAI)"),
    Route(method="POST", path="/v1/messages", handler=messages, body=MessagesRequest,
          error_response=to_anthropic_response, generates=True, summary="Chat (Anthropic)"),
    Route(method="POST", path="/v1/messages/count_tokens", handler=count_tokens,
          body=CountTokensRequest, error_response=to_anthropic_response,
          summary="Length of a chat's prompt (Anthropic)"),
    Route(method="POST", path="/invocations", handler=invocations, body=InvocationRequest,
          generates=True, summary="Generate, chat or complete (SageMaker)"),
    Route(method="POST", path="/vertex", handler=vertex, body=VertexRequest,
          error_response=to_vertex_response, generates=True,
          summary="Generate a text per instance (Vertex AI)"),
    Route(method="GET", path="/v1/models", handler=list_models,
          is_open=True, summary="The served model (OpenAI)"),
    Route(method="GET", path="/", handler=health, is_open=True, summary="Health"),
    Route(method="GET", path="/health", handler=health, is_open=True, summary="Health"),
    Route(method="GET", path="/ping", handler=health, is_open=True, summary="Health (SageMaker)"),
    Route(method="GET", path="/info", handler=info, is_open=True, summary="Model and limits"),
    Route(method="GET", path="/metrics", handler=metrics, is_open=True, summary="Prometheus text"),
)  # fmt: skip


def routes_of(settings: Settings) -> tuple[Route, ...]:
    """The table as the settings want it: their errors on OpenAI's routes, Vertex AI's own paths."""
    openai_errors = conventions_of(settings).error_response
    routes = [
        replace(route, error_response=openai_errors)
        if route.error_response is to_openai_response
        else route
        for route in ROUTES
    ]
    paths = {"/vertex": settings.aip_predict_route, "/health": settings.aip_health_route}
    taken = {(route.method, route.path) for route in routes}
    for route in ROUTES:
        path = paths.get(route.path)
        if path is not None and (route.method, path) not in taken:
            routes.append(replace(route, path=path))
    return tuple(routes)
