"""TGI's `parameters` object, its rules, and its translation into a `GenerationRequest`.

Every dialect passes through here: it fills a `GenerateParameters` with its own fields and has
them checked by the same rules, in TGI's order and with TGI's messages.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headrace.api.grammar import OutputFormat, to_grammar
from headrace.api.schema import (
    Body,
    Float32,
    Int32,
    Unsigned32,
    Unsigned64,
    reject_unsupported,
)
from headrace.errors import ValidationError
from headrace.text.generation import GenerationRequest

MAX_BIASED_TOKENS = 1024
MAX_STOP_TOKEN_IDS = 128


class GenerateParameters(Body):
    """How to generate. `None` and the defaults mean: not asked for."""

    best_of: Unsigned32 | None = None
    temperature: Float32 | None = None
    repetition_penalty: Float32 | None = None
    frequency_penalty: Float32 | None = None
    presence_penalty: Float32 | None = None
    top_p: Float32 | None = None
    typical_p: Float32 | None = None
    min_p: Float32 | None = None
    top_k: Int32 | None = None
    do_sample: bool = False
    max_new_tokens: Unsigned32 | None = None
    min_new_tokens: Unsigned32 | None = None
    ignore_eos: bool = False
    return_full_text: bool | None = None
    stop: list[str] = []
    stop_token_ids: list[Unsigned32] | None = None
    logit_bias: dict[int, Float32] | None = None
    truncate: Unsigned32 | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: Unsigned64 | None = None
    top_n_tokens: Unsigned32 | None = None
    grammar: OutputFormat | None = None
    adapter_id: Any = None

    @property
    def is_sampling(self) -> bool:
        """Any sampling field implies `do_sample`."""
        fields = (self.temperature, self.top_k, self.top_p, self.typical_p, self.min_p)
        return self.do_sample or any(field is not None for field in fields)


UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "adapter_id": (None,),
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for at most."""

    max_best_of: int
    max_stop_sequences: int
    max_top_n_tokens: int
    max_input_tokens: int
    allows_grammar: bool = True


@dataclass(frozen=True)
class Rule:
    """A range that one number must lie in."""

    field: str
    holds: Callable[[Any], bool]
    requirement: str


def _positive(value: float) -> bool:
    return value > 0


def _penalty(value: float) -> bool:
    return -2.0 <= value <= 2.0


def _probability(value: float) -> bool:
    # TGI refuses 1.0, which means "off" and which OpenAI's clients send.
    return 0.0 < value <= 1.0


RANGES = (
    Rule("temperature", _positive, "must be strictly positive"),
    Rule("repetition_penalty", _positive, "must be strictly positive"),
    Rule("frequency_penalty", _penalty, "must be >= -2.0 and <= 2.0"),
    Rule("presence_penalty", _penalty, "must be >= -2.0 and <= 2.0"),
    Rule("top_p", _probability, "must be > 0.0 and < 1.0"),
    Rule("typical_p", _probability, "must be > 0.0 and < 1.0"),
    Rule("min_p", lambda value: 0.0 <= value <= 1.0, "must be >= 0.0 and <= 1.0"),
    Rule("top_k", _positive, "must be strictly positive"),
    Rule("max_new_tokens", _positive, "must be strictly positive"),
)
"""In TGI's order of checking."""


def check_count(field: str, given: int, most: int) -> None:
    """Raise ValidationError unless 1 <= given <= most."""
    if most == 1 and given != 1:
        raise ValidationError(f"`{field}` != 1 is not allowed for this endpoint")
    if not 0 < given <= most:
        raise ValidationError(f"`{field}` must be > 0 and <= {most}. Given: {given}")


def _check_best_of(parameters: GenerateParameters, limits: Limits, *, stream: bool) -> None:
    best_of = 1 if parameters.best_of is None else parameters.best_of
    if stream and best_of != 1:
        raise ValidationError("`best_of` != 1 is not supported when streaming tokens")
    if stream and parameters.decoder_input_details:
        raise ValidationError(
            "`decoder_input_details` == true is not supported when streaming tokens"
        )
    check_count("best_of", best_of, limits.max_best_of)
    if best_of > 1 and not parameters.is_sampling:
        raise ValidationError("you must use sampling when `best_of` is > 1")


def _check_stop(parameters: GenerateParameters, limits: Limits) -> None:
    most, given = limits.max_stop_sequences, len(parameters.stop)
    if given > most:
        raise ValidationError(f"`stop` supports up to {most} stop sequences. Given: {given}")


def _check_count_of(field: str, given: int, most: int) -> None:
    if given > most:
        raise ValidationError(f"`{field}` supports up to {most} token ids. Given: {given}")


def _check_extensions(parameters: GenerateParameters) -> None:
    """What TGI does not have. The front end knows the vocabulary, and checks the ids."""
    bias = parameters.logit_bias or {}
    _check_count_of("logit_bias", len(bias), MAX_BIASED_TOKENS)
    if any(not -100.0 <= value <= 100.0 for value in bias.values()):
        raise ValidationError("`logit_bias` values must be >= -100 and <= 100")
    _check_count_of("stop_token_ids", len(parameters.stop_token_ids or []), MAX_STOP_TOKEN_IDS)
    most, least = parameters.max_new_tokens, parameters.min_new_tokens or 0
    if most is not None and least > most:
        raise ValidationError(
            f"`min_new_tokens` must be <= `max_new_tokens`. Given: {least} and {most}"
        )


def _check_inputs(inputs: str | list[int], truncate: int | None, limits: Limits) -> None:
    if not inputs:
        raise ValidationError("`inputs` cannot be empty")
    if truncate is not None and not 0 < truncate <= limits.max_input_tokens:
        raise ValidationError(
            f"`truncate` must be strictly positive and less than {limits.max_input_tokens}. "
            f"Given: {truncate}"
        )


def check(
    inputs: str | list[int], parameters: GenerateParameters, limits: Limits, *, stream: bool
) -> None:
    """Apply all rules that do not depend on the tokenized prompt. Raises ValidationError."""
    reject_unsupported(parameters, UNSUPPORTED)
    _check_best_of(parameters, limits, stream=stream)
    for rule in RANGES:
        value = getattr(parameters, rule.field)
        if value is not None and not rule.holds(value):
            raise ValidationError(f"`{rule.field}` {rule.requirement}")
    _check_stop(parameters, limits)
    if parameters.seed is not None and (parameters.best_of or 1) > 1:
        raise ValidationError("`seed` must not be set when `best_of` > 1")
    top_n_tokens = parameters.top_n_tokens or 0
    if top_n_tokens > limits.max_top_n_tokens:
        raise ValidationError(
            f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. Given: {top_n_tokens}"
        )
    _check_extensions(parameters)
    _check_inputs(inputs, parameters.truncate, limits)
    if parameters.grammar is not None and not limits.allows_grammar:
        raise ValidationError("grammar is not supported")


def _temperature(parameters: GenerateParameters) -> float:
    if not parameters.is_sampling:
        return 0.0
    return 1.0 if parameters.temperature is None else parameters.temperature


def to_generation_request(
    inputs: str | list[int],
    parameters: GenerateParameters,
    limits: Limits,
    *,
    stream: bool,
    **dialect: Any,
) -> GenerationRequest:
    """Check the parameters and state them in the front end's terms.

    `dialect` holds the fields of GenerationRequest that are the dialect's own business (n,
    keep_stop_text, add_special_tokens, log-probabilities). Raises ValidationError.
    """
    check(inputs, parameters, limits, stream=stream)
    given: dict[str, Any] = {
        "repetition_penalty": parameters.repetition_penalty,
        "frequency_penalty": parameters.frequency_penalty,
        "presence_penalty": parameters.presence_penalty,
        "top_p": parameters.top_p,
        "typical_p": parameters.typical_p,
        "min_p": parameters.min_p,
        "top_k": parameters.top_k,
        "min_new_tokens": parameters.min_new_tokens,
        "logit_bias": parameters.logit_bias,
    }
    return GenerationRequest(
        prompt=inputs,
        truncate=parameters.truncate,
        max_new_tokens=parameters.max_new_tokens,
        temperature=_temperature(parameters),
        seed=parameters.seed,
        stop=tuple(parameters.stop),
        stop_token_ids=tuple(parameters.stop_token_ids or ()),
        ignore_eos=parameters.ignore_eos,
        watermark=parameters.watermark,
        grammar=to_grammar(parameters.grammar),
        **{name: value for name, value in given.items() if value is not None},
        **dialect,
    )
