"""What a dialect asks of the front end, and what it gets back. Plain data, no behaviour.

Every route, streaming or not, OpenAI's or TGI's, speaks in these terms; a dialect is only a
translation of its own field names into a `GenerationRequest` and of `TextDelta`s into its bodies.
What is made for every token is a msgspec structure: a frozen dataclass takes ten times as long.
Nothing of it can be part of a cycle, so the garbage collector need not look at it (`gc=False`).
"""

from dataclasses import dataclass, field

import msgspec

from headrace.types import FinishReason, Grammar, Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt to continue `n` times. Fields are already in range (the dialect checked them);
    what depends on the tokenized prompt (lengths) is checked by the front end."""

    prompt: str | list[int]
    add_special_tokens: bool = True
    """False for rendered chat templates, which contain their special tokens already."""
    truncate: int | None = None
    """Keep the last so many prompt tokens."""
    max_new_tokens: int | None = None
    """None: as many as fit into max_total_tokens; 0: only score the prompt."""
    min_new_tokens: int = 0
    n: int = 1
    """Sequences to generate; deltas carry their index."""
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None
    """None: drawn at random. Sequence i of n uses seed + i."""
    stop: tuple[str, ...] = ()
    keep_stop_text: bool = False
    """True: the stop string stays at the end of the text (TGI's native routes)."""
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    """False: special tokens appear in the text."""
    shown_token_ids: frozenset[int] = frozenset()
    """Special tokens that appear in the text all the same (the markers of tool calls)."""
    num_top_logprobs: int | None = None
    """None: no log-probabilities; 0: of chosen tokens; n: also of the n likeliest."""
    prompt_logprobs: bool = False
    """Also of the prompt's tokens, with as many of the likeliest."""
    grammar: Grammar | None = None
    """End-of-sequence ends the text where the grammar allows it, whatever `ignore_eos` says."""
    watermark: bool = False
    """Mark the text so that a detector can tell where it comes from."""
    cache_salt: str = ""
    priority: int = 0


class TokenText(msgspec.Struct, frozen=True, gc=False):
    """One token with its text; `text` of a token inside a multi-byte character is empty and the
    token that completes the character carries it whole."""

    id: int
    text: str
    logprob: float | None = None
    special: bool = False
    top: tuple["TokenText", ...] = ()


@dataclass(frozen=True, slots=True)
class PromptInfo:
    """About the prompt; comes with the first delta of each sequence."""

    num_tokens: int
    num_cached_tokens: int = 0
    """Of them, in the engine's prefix cache."""
    tokens: tuple[TokenText, ...] = ()
    """With log-probabilities, when `prompt_logprobs` was asked for."""


@dataclass(frozen=True, slots=True)
class Finish:
    """How a sequence ended; comes with its last delta."""

    reason: FinishReason
    num_tokens: int
    """Generated tokens, an end-of-sequence token included."""
    text: str
    """The whole generated text."""
    seed: int | None
    """None when greedy."""
    timings: Timings
    validation_time: float
    """Seconds in the front end before the engine took over."""
    stop: str | int | None = None
    """The stop string or stop token id that ended it."""


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """What one engine step (or the release of held-back text) adds to sequence `index`.

    Concatenated `text` of all deltas equals `finish.text`. Text that may still turn out to be the
    beginning of a stop string is held back; `tokens` are never held back.
    """

    index: int
    text: str
    tokens: tuple[TokenText, ...]
    prompt: PromptInfo | None = None
    finish: Finish | None = None


@dataclass(slots=True)
class Generation:
    """The fold of one sequence's deltas: the non-streaming answer."""

    index: int
    prompt: PromptInfo
    text: str
    tokens: list[TokenText]
    finish: Finish
