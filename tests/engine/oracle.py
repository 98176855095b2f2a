"""What the fake model gives for a request that runs alone: no scheduler, no blocks, no batch."""

from array import array

from headrace.engine.fake import key_value, logprob, sample, top_logprobs
from headrace.types import Add, FinishReason, SamplingParams


def expected(add: Add, vocab_size: int, generated: int = 0) -> tuple[list[int], FinishReason]:
    """All output tokens, from the prompt on, and why they end. `generated`: their kind."""
    params = add.params
    context = array("q")
    for token in add.prompt_ids:
        context.append(key_value(context[-1] if context else 0, token))
    output: list[int] = []
    while True:
        token = sample(context, params, vocab_size)
        output.append(token)
        context.append(key_value(context[-1], token, generated))
        if token in params.stop_token_ids and len(output) > params.min_tokens:
            return output, FinishReason.EOS_TOKEN
        if len(output) == params.max_tokens:
            return output, FinishReason.LENGTH


def expected_prompt_logprobs(prompt_ids: list[int]) -> list[float | None]:
    value = 0
    values: list[float | None] = [None]
    for token, following in zip(prompt_ids, prompt_ids[1:], strict=False):
        value = key_value(value, token)
        values.append(logprob(value, following))
    return values


def expected_prompt_top_logprobs(
    prompt_ids: list[int], count: int, vocab_size: int
) -> list[list[tuple[int, float]]]:
    value = 0
    values: list[list[tuple[int, float]]] = [[]]
    for token, following in zip(prompt_ids, prompt_ids[1:], strict=False):
        value = key_value(value, token)
        values.append(top_logprobs(value, following, count, vocab_size))
    return values


def make_add(request_id: int, prompt_ids: list[int], max_tokens: int = 8, **fields: object) -> Add:
    """An `Add` with greedy sampling; `fields` go to `Add` or to its `SamplingParams`."""
    own = {name: fields.pop(name) for name in list(fields) if name in Add.__struct_fields__}
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, **fields)  # type: ignore[arg-type]
    return Add(request_id=request_id, prompt_ids=prompt_ids, params=params, **own)  # type: ignore[arg-type]
