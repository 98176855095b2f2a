"""OpenAI's fields in the front end's terms."""

from dataclasses import replace
from typing import Any, cast

from headrace.api.errors import DialectError
from headrace.api.grammar import OutputFormat
from headrace.api.openai.chat_turn import ChatTurn, chat_turn, render_prompt
from headrace.api.openai.conventions import conventions_of
from headrace.api.openai.schemas import (
    UNSUPPORTED,
    UNSUPPORTED_IN_CHAT,
    ChatRequest,
    CompletionRequest,
    SamplingBody,
)
from headrace.api.parameters import (
    GenerateParameters,
    check_count,
    to_generation_request,
)
from headrace.api.schema import reject_unsupported
from headrace.api.service import Service
from headrace.errors import ValidationError
from headrace.text.generation import GenerationRequest

SAME_IN_TGI = (
    "top_p", "top_k", "typical_p", "min_p", "repetition_penalty", "frequency_penalty",
    "presence_penalty", "logit_bias", "stop_token_ids", "ignore_eos",
)  # fmt: skip


def _stop_list(stop: str | list[str] | None) -> list[str]:
    if stop is None:
        return []
    return [stop] if isinstance(stop, str) else stop


def _output_format(body: SamplingBody) -> OutputFormat | None:
    """TGI calls it `grammar` in completions, and takes that name in chat too."""
    if body.response_format is not None and body.grammar is not None:
        raise ValidationError("`response_format` and `grammar` are mutually exclusive")
    return body.response_format or body.grammar


def _parameters(
    body: SamplingBody, max_new_tokens: int | None, top_n_tokens: int | None
) -> GenerateParameters:
    return GenerateParameters.model_construct(
        **{name: getattr(body, name) for name in SAME_IN_TGI},
        temperature=body.temperature or None,
        do_sample=True,
        max_new_tokens=max_new_tokens,
        min_new_tokens=body.min_tokens,
        top_n_tokens=top_n_tokens,
        stop=_stop_list(body.stop),
        grammar=_output_format(body),
        # OpenAI's seeds are signed; here they are the same 64 bits without a sign.
        seed=None if body.seed is None else body.seed % 2**64,
    )


def _request(
    body: SamplingBody,
    prompt: str | list[int],
    parameters: GenerateParameters,
    service: Service,
    *,
    n: int,
    **dialect: Any,
) -> GenerationRequest:
    stream = bool(body.stream)
    if body.stream_options is not None and not stream:
        raise ValidationError("`stream_options` is only allowed when `stream` is true")
    request = to_generation_request(
        prompt,
        parameters,
        service.limits,
        stream=stream,
        n=n,
        keep_stop_text=conventions_of(service.settings).keeps_stop_text,
        skip_special_tokens=body.skip_special_tokens,
        cache_salt=body.cache_salt or "",
        **dialect,
    )
    return replace(request, temperature=0.0) if body.temperature == 0 else request


def _sequence_count(body: SamplingBody, service: Service) -> int:
    n = 1 if body.n is None else body.n
    check_count("n", n, service.limits.max_best_of)
    return n


async def translate_chat(service: Service, body: ChatRequest) -> ChatTurn:
    """Check the body and render its messages. Raises ValidationError, ToolError, TemplateError."""
    reject_unsupported(body, UNSUPPORTED_IN_CHAT)
    if body.top_logprobs and not body.logprobs:
        raise ValidationError("`logprobs` must be true when `top_logprobs` is set")
    n = _sequence_count(body, service)
    prompt = await render_prompt(service, body)
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    request = _request(
        body,
        prompt.text,
        _parameters(body, limit, body.top_logprobs),
        service,
        n=n,
        add_special_tokens=False,
        num_top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    return chat_turn(service, body, prompt, request)


def _prompts_of(body: CompletionRequest) -> list[str | list[int]]:
    """The prompts of one call: texts, or lists of token ids."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [prompt]
    return list(cast(list[str | list[int]], prompt))


def _check_prompts(prompts: list[str | list[int]], service: Service) -> None:
    most = service.settings.max_client_batch_size
    if not prompts:
        raise ValidationError("`prompt` must not be an empty list")
    if len(prompts) > most:
        raise DialectError(
            f"Number of prompts exceeds the maximum allowed batch size of {most}",
            "batch size exceeded",
        )


def _check_best_of(best_of: int, n: int, body: CompletionRequest, service: Service) -> None:
    check_count("best_of", best_of, service.limits.max_best_of)
    if best_of < n:
        raise ValidationError(f"`best_of` must be >= `n`. Given: {best_of} and {n}")
    if best_of > n and body.stream:
        raise ValidationError("`best_of` > `n` is not supported when streaming tokens")
    if best_of > n and body.temperature == 0:
        raise ValidationError("you must use sampling when `best_of` is > `n`")


def translate_completion(service: Service, body: CompletionRequest) -> list[GenerationRequest]:
    """One request per prompt. Raises ValidationError."""
    reject_unsupported(body, UNSUPPORTED)
    if body.suffix is not None:
        raise DialectError(
            "Suffix is not supported and can be achieved by preprocessing the prompt.",
            "suffix not supported",
        )
    prompts = _prompts_of(body)
    _check_prompts(prompts, service)
    n = _sequence_count(body, service)
    best_of = n if body.best_of is None else body.best_of
    _check_best_of(best_of, n, body, service)
    # An echo of nothing but the prompt, with its log-probabilities, is how texts are scored.
    scores_only = bool(body.echo) and body.max_tokens == 0
    parameters = _parameters(body, None if scores_only else body.max_tokens, body.logprobs)
    requests = [
        _request(
            body,
            prompt,
            parameters,
            service,
            n=best_of,
            # The best are found by their log-probabilities.
            num_top_logprobs=0 if body.logprobs is None and best_of > n else body.logprobs,
            # Token ids are echoed by the text that comes with their log-probabilities.
            prompt_logprobs=bool(body.echo)
            and (body.logprobs is not None or not isinstance(prompt, str)),
        )
        for prompt in prompts
    ]
    return [replace(each, max_new_tokens=0) for each in requests] if scores_only else requests
