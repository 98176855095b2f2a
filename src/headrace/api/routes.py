"""Every route, in one table. A new route is one handler and one line here."""

from headrace.api.endpoint import Route
from headrace.api.errors import to_openai_response
from headrace.api.openai.chat import chat_completions
from headrace.api.openai.completions import completions
from headrace.api.openai.models import list_models
from headrace.api.openai.schemas import ChatRequest, CompletionRequest
from headrace.api.tgi.generate import compat_generate, generate, generate_stream
from headrace.api.tgi.schemas import CompatGenerateRequest, GenerateRequest
from headrace.api.tgi.server import health, info, metrics
from headrace.api.tgi.tokenize import chat_tokenize, tokenize

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
    Route(method="GET", path="/v1/models", handler=list_models,
          is_open=True, summary="The served model (OpenAI)"),
    Route(method="GET", path="/", handler=health, is_open=True, summary="Health"),
    Route(method="GET", path="/health", handler=health, is_open=True, summary="Health"),
    Route(method="GET", path="/ping", handler=health, is_open=True, summary="Health (SageMaker)"),
    Route(method="GET", path="/info", handler=info, is_open=True, summary="Model and limits"),
    Route(method="GET", path="/metrics", handler=metrics, is_open=True, summary="Prometheus text"),
)  # fmt: skip
