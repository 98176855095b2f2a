"""Every message that crosses a boundary, and the two protocols that carry them.

Down the channel go `Add` and `Abort`, up come `LoadProgress`, `EngineInfo`, `EngineFailure` and
`StepEvents`. Inside the engine process a `StepPlan` goes to the executor (and is broadcast to
further ranks, which never answer) and a `StepOutput` comes back. What is not in this file does
not cross. Only token ids travel here, never text. What is made for every row of every step is not
looked at by the garbage collector (`gc=False`): it cannot be part of a cycle.
"""

from collections import Counter
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Any, Final, Protocol, TypedDict

import msgspec


class FinishReason(StrEnum):
    """Why a request ended; the values are TGI's."""

    LENGTH = "length"
    EOS_TOKEN = "eos_token"
    STOP_SEQUENCE = "stop_sequence"


class JsonSpacing(TypedDict):
    """llguidance's options for what stands between the parts of a JSON text."""

    whitespace_flexible: bool
    item_separator: str
    key_separator: str


JSON_SPACING: Final[JsonSpacing] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""One line, spaced as by json.dumps, which models have learned; TGI's grammars kept to one line,
too. Freer whitespace is where small models get lost until their tokens run out, and leaves a choice
at each name and bracket, so that none of them could be known without being sampled."""


class Grammar(msgspec.Struct, frozen=True, kw_only=True):
    """A constraint on the generated text, compiled on the engine's side.

    `kind` is "json" (a JSON schema as text), "regex", or "lark" (llguidance's dialect).
    """

    kind: str
    source: str


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How to choose tokens for one sequence. Fully resolved: no field means "default"."""

    max_tokens: int
    """New tokens at most, counting those a resumed request has already emitted."""
    min_tokens: int = 0
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """0 is off."""
    top_p: float = 1.0
    typical_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Divides or multiplies the logits of tokens in prompt and output (Keskar et al. 2019)."""
    frequency_penalty: float = 0.0
    """Times the token's count in the output, subtracted (OpenAI's meaning)."""
    presence_penalty: float = 0.0
    """Subtracted once for tokens that occur in the output (OpenAI's meaning)."""
    logit_bias: dict[int, float] = {}
    seed: int = 0
    """Keys the random numbers together with position and candidate; 64 bits unsigned."""
    stop_token_ids: frozenset[int] = frozenset()
    """Ids that end the sequence (after `min_tokens`); empty when end-of-sequence is ignored."""
    num_top_logprobs: int | None = None
    """None: no log-probabilities; 0: of the chosen token only; n: also of the n likeliest."""
    prompt_logprobs: bool = False
    """Also of the prompt's tokens, with as many of the likeliest as `num_top_logprobs` says."""
    grammar: Grammar | None = None
    watermark: bool = False
    """Mark the output, as the executor was set up to."""


class Add(msgspec.Struct, frozen=True, kw_only=True, tag="add"):
    """Start (or, with `output_ids`, resume) one sequence."""

    request_id: int
    prompt_ids: list[int]
    params: SamplingParams
    output_ids: list[int] = []
    """Tokens emitted earlier by an engine that died; they are not emitted again."""
    cache_salt: str = ""
    """Part of the prefix-cache key: requests with different salts share no blocks."""
    priority: int = 0
    """Lower runs first; equal priorities run in order of arrival."""


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Forget these requests at once; unknown or ended ids are ignored."""

    request_ids: list[int]


Command = Add | Abort


class LoadProgress(msgspec.Struct, frozen=True, tag="progress"):
    """The engine process is still loading."""

    stage: str
    done: int
    total: int


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True, tag="info"):
    """The engine answers requests from now on; its limits, measured after warm-up."""

    max_total_tokens: int
    """Prompt and new tokens together that one request may have."""
    max_batch_prefill_tokens: int
    """Token budget of one step."""
    max_num_seqs: int
    """Requests that run at the same time; more wait."""
    num_blocks: int
    block_size: int
    vocab_size: int
    device: str
    """For people: "cpu", "cuda:0 NVIDIA H100"."""
    dtype: str
    kernels: str
    """For people: which kernels are in use and why."""
    weight_bytes: int = 0
    kv_cache_bytes: int = 0
    max_num_drafts: int = 0
    """Tokens that the executor's drafter can propose per row and step; 0 when it has none."""
    distinguishes_prompts: bool = False
    """Prompt tokens are computed in another arithmetic than generated ones: the same tokens have
    other keys and values, and a row's tokens of one step must be of one kind."""


class EngineFailure(msgspec.Struct, frozen=True, tag="failure"):
    """The engine process cannot start; it exits after sending this."""

    message: str


class Timings(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Where one request spent its time, in seconds of the engine's monotonic clock."""

    queue_time: float
    """From arrival in the engine to the first step it was part of."""
    prefill_time: float
    """From then to its first token."""
    decode_time: float
    """From its first token to its last."""
    num_cached_tokens: int
    """Prompt tokens whose keys and values came from the prefix cache."""
    num_preemptions: int = 0
    num_draft_tokens: int = 0
    """Drafted tokens that were verified, wrong ones included."""
    num_accepted_tokens: int = 0
    """Drafted tokens that were right."""
    num_forced_tokens: int = 0
    """Tokens that the grammar left no choice of, taken without a forward pass of their own."""
    num_draft_steps: int = 0
    """Steps in which drafts were verified."""


class TokenEvent(msgspec.Struct, kw_only=True, array_like=True, gc=False):
    """New tokens of one request; the last event of a request has `finish_reason` or `error`."""

    request_id: int
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    error: str | None = None
    logprobs: list[float] | None = None
    """One per token, of the model's own distribution (before penalties and temperature)."""
    top_logprobs: list[list[tuple[int, float]]] | None = None
    """Per token the likeliest (id, logprob), best first."""
    prompt_logprobs: list[float | None] | None = None
    """With the first token: one per prompt token, None for the first."""
    prompt_top_logprobs: list[list[tuple[int, float]]] | None = None
    """With `prompt_logprobs`: per prompt token the likeliest, none for the first."""
    timings: Timings | None = None
    """With the first token, as far as they are known then, and with the last event."""
    is_invalid: bool = False
    """The error is the request's own fault; for example, its grammar is not valid."""
    num_draft_tokens: int = 0
    """Drafted tokens that were verified in the step; all tokens but the last were among them."""
    is_forced: bool = False
    """A grammar left no choice of the tokens."""


class EngineStats(msgspec.Struct, kw_only=True, array_like=True):
    """A snapshot after a step, for metrics, health and the dashboard."""

    num_running: int = 0
    num_waiting: int = 0
    num_free_blocks: int = 0
    """Blocks that can be handed out, cached ones included."""
    num_cached_blocks: int = 0
    num_prefill_tokens: int = 0
    """Of this step."""
    num_decode_tokens: int = 0
    step_duration: float = 0.0
    execute_duration: float = 0.0
    """Of `step_duration`, like the next two: on the device."""
    prefix_cache_queries: int = 0
    """Prompt tokens looked up since start."""
    prefix_cache_hits: int = 0
    num_preemptions: int = 0
    num_draft_tokens: int = 0
    """Drafted tokens that were verified since start; see `Timings`."""
    num_accepted_tokens: int = 0
    num_forced_tokens: int = 0
    num_sampled_rows: int = 0
    """Rows of this step that got new tokens."""
    num_skipped_tokens: int = 0
    """Of this step: new tokens beyond the first of each row."""
    schedule_duration: float = 0.0
    """Choosing what runs in this step."""
    update_duration: float = 0.0
    """Taking in its tokens and letting ended requests go."""
    num_failed: int = 0
    """Requests that failed in this step through no fault of theirs."""
    num_draft_steps: int = 0
    """See `Timings`; of all requests added up."""
    num_engine_deaths: int = 0
    """Engine processes that ended by themselves since start."""


StepCounts = Counter[tuple[str, str, int]]
"""Engine steps for metrics, by name of the metric, its label, and bucket; see
`observability.steps`."""


class StepEvents(msgspec.Struct, kw_only=True, tag="events"):
    """All that one engine step has to say."""

    events: list[TokenEvent]
    stats: EngineStats


Report = LoadProgress | EngineInfo | EngineFailure | StepEvents


class RowStart(msgspec.Struct, kw_only=True, array_like=True):
    """A request enters (or, after preemption, re-enters) row `row` of the executor."""

    row: int
    params: SamplingParams
    token_ids: list[int]
    """All tokens known so far: prompt, then output. Penalties count over them."""
    num_prompt_tokens: int


class StepPlan(msgspec.Struct, kw_only=True, array_like=True):
    """One forward pass. Parallel lists have one entry per scheduled row: decodes, then chunks of
    generated tokens that are computed once more, then chunks of prompts.

    A request keeps its row from start to end (or preemption), so that the executor can hold its
    block table and sampling state there and the plan carries differences only. Where
    `EngineInfo.distinguishes_prompts`, no row has tokens before and behind its prompt's end.
    """

    ended: list[int]
    """Rows freed since the last plan; applied before `started`."""
    started: list[RowStart]
    rows: list[int]
    starts: list[int]
    """Tokens whose keys and values are already in the cache (`num_computed`)."""
    counts: list[int]
    """Tokens to compute now: 1 for a plain decode, more for a prompt chunk or drafts."""
    token_ids: list[int]
    """The tokens to compute, rows one after another; sum(counts) of them."""
    new_blocks: list[list[int]]
    """Block ids appended to each row's block table before this step."""
    num_samples: list[int]
    """Trailing positions of each row to sample from: 0 while the prompt is incomplete, 1 for a
    plain step, 1 + drafts when drafts are verified."""
    masks: dict[int, bytes] = {}
    """By index into `rows`, for rows with a grammar: which tokens are allowed at each sampled
    position, one after another. Token t is bit t % 32 of the little-endian 32-bit word t // 32."""
    num_drafts: dict[int, int] = {}
    """By index into `rows`: how many tokens the executor's own drafter (draft model, heads) shall
    propose behind those that this step samples. They come back in `RowOutput.draft_ids`."""
    num_prompt_rows: int = 0
    """The last so many rows begin with a token of their prompts."""


class RowOutput(msgspec.Struct, kw_only=True, array_like=True, gc=False):
    """What the executor sampled for one row."""

    token_ids: list[int]
    """Accepted tokens, 1 to num_samples of them; empty where num_samples is 0."""
    logprobs: list[float] | None = None
    top_logprobs: list[list[tuple[int, float]]] | None = None
    prompt_logprobs: list[float] | None = None
    """Of the tokens *following* each computed prompt position in this step (a chunk's share)."""
    prompt_top_logprobs: list[list[tuple[int, float]]] | None = None
    """With `prompt_logprobs`: the likeliest at the same places."""
    error: str | None = None
    """This row alone failed (for example: no finite logit)."""
    draft_ids: list[int] = []
    """Proposals for the tokens behind `token_ids`, as many as `StepPlan.num_drafts` asked for or
    fewer. A later plan may bring them back as ordinary tokens to verify, or drop them."""


class StepOutput(msgspec.Struct, kw_only=True, array_like=True):
    """One `RowOutput` per scheduled row, in the plan's order."""

    rows: list[RowOutput]
    draft_duration: float = 0.0
    """Seconds of the execution that went into `RowOutput.draft_ids`."""


class Executor(Protocol):
    """Runs plans on a device. The engine knows nothing else of the device side."""

    def execute(self, plan: StepPlan) -> StepOutput:
        """Run one forward pass and sample. Raises only when the device is unusable."""
        ...

    def prepare(self) -> bool:
        """Make later plans cheaper, for some milliseconds at most, while there is none to execute.
        Returns False when nothing is left to prepare."""
        ...


class EngineClient(Protocol):
    """The front end's view of an engine, wherever it runs."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def stats(self) -> EngineStats: ...

    @property
    def is_healthy(self) -> bool:
        """False while the engine is down or makes no progress although it has work."""
        ...

    def generate(self, add: Add) -> AsyncIterator[TokenEvent]:
        """Yield the request's events, the last one finished.

        Closing the iterator early aborts the request. Raises `errors.EngineDeadError` when the
        engine cannot be brought back.
        """
        ...


class ServedEngine(EngineClient, Protocol):
    """An engine client with a life of its own, seen by who composes the server."""

    @property
    def steps(self) -> StepCounts:
        """Of all engines since start; the same object at every call."""
        ...

    async def start(self) -> None:
        """Wait until requests can be answered. Raises StartupError."""
        ...

    async def close(self) -> None:
        """Live requests fail with EngineDeadError."""
        ...


Json = dict[str, Any]
