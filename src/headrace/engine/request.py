"""One request inside the engine: its tokens, its blocks, when it ends, and how long it took.

Knows nothing of other requests; the scheduler moves it between queues.
"""

from typing import Protocol

from headrace.engine.blocks import chain_digest, root_digest
from headrace.engine.speculation.state import SpeculationState
from headrace.types import Add, FinishReason, RowStart, Timings

NO_ROW = -1

TopLogprobs = list[tuple[int, float]]


class Constraint(Protocol):
    """What a request's grammar makes of its tokens; `engine.constraint` has the real one."""

    is_ready: bool
    """All else is valid only while this is True."""

    @property
    def draft_ids(self) -> list[int]:
        """Drafted tokens that the grammar allows, and those that it forces."""
        ...

    @property
    def num_forced(self) -> int:
        """How many of them, from the first on, the grammar leaves no choice of."""
        ...

    def masks(self, num_drafts: int) -> bytes:
        """The tokens that may come next, and those behind each of the first `num_drafts` drafts,
        as in `StepPlan.masks`."""
        ...

    def jump_forward(self) -> list[int]:
        """Take and return the forced tokens; the other drafts stay."""
        ...

    def accept(self, token_ids: list[int], draft_ids: list[int], least: float) -> None:
        """Begin with the masks that follow these tokens and then these drafts, and further ones
        that are right with the probability `least`."""
        ...


class Request:
    """Mutable state of one request; `num_computed` follows `len(token_ids)`."""

    __slots__ = (
        "arrival_time",
        "block_ids",
        "block_size",
        "cache_salt",
        "constraint",
        "digests",
        "distinguishes_prompts",
        "draft_ids",
        "executor_draft_ids",
        "finish_reason",
        "first_token_time",
        "max_length",
        "min_length",
        "next_full",
        "num_accepted_tokens",
        "num_cached_tokens",
        "num_computed",
        "num_draft_steps",
        "num_draft_tokens",
        "num_forced_tokens",
        "num_preemptions",
        "num_prompt_tokens",
        "num_sent_blocks",
        "order",
        "params",
        "prompt_logprobs",
        "prompt_top_logprobs",
        "queue",
        "request_id",
        "row",
        "speculation",
        "start_time",
        "stop_token_ids",
        "token_ids",
    )

    def __init__(
        self,
        add: Add,
        arrival: int,
        now: float,
        block_size: int,
        constraint: Constraint | None = None,
        *,
        distinguishes_prompts: bool = False,
    ) -> None:
        """`distinguishes_prompts`: see `EngineInfo`."""
        self.request_id = add.request_id
        self.params = add.params
        self.order = (add.priority, arrival)
        self.constraint = constraint
        self.queue: list[Request] = []
        """The scheduler's queue that holds this request."""

        self.token_ids = add.prompt_ids + add.output_ids
        self.num_prompt_tokens = len(add.prompt_ids)
        self.distinguishes_prompts = distinguishes_prompts
        self.num_computed = 0
        """Leading tokens whose keys and values are in `block_ids`."""
        self.min_length = self.num_prompt_tokens + add.params.min_tokens
        self.max_length = self.num_prompt_tokens + add.params.max_tokens
        self.stop_token_ids = add.params.stop_token_ids
        self.finish_reason: FinishReason | None = None
        collects = add.params.prompt_logprobs and not add.output_ids
        self.prompt_logprobs: list[float] | None = [] if collects else None
        """Collected until the first token takes them along; None when not (or no longer) wanted."""
        self.prompt_top_logprobs: list[TopLogprobs] = []

        self.row = NO_ROW
        self.block_size = block_size
        self.block_ids: list[int] = []
        self.num_sent_blocks = 0
        """Leading blocks that the executor has been told of."""
        self.next_full = block_size
        """When `num_computed` reaches this, another block can enter the prefix cache."""
        self.cache_salt = add.cache_salt
        self.digests = [root_digest(add.cache_salt)]
        """Of the chain so far: the root, then one per full block; longer only on demand."""

        self.draft_ids: list[int] = []
        """What the next step shall verify behind the last token, if there is room."""
        self.executor_draft_ids: list[int] = []
        """What the executor's own drafter proposed."""
        self.speculation: SpeculationState | None = None
        self.num_draft_tokens = 0
        self.num_accepted_tokens = 0
        self.num_forced_tokens = 0
        self.num_draft_steps = 0

        self.arrival_time = now
        self.start_time: float | None = None
        self.first_token_time: float | None = None
        self.num_cached_tokens = 0
        self.num_preemptions = 0

    def digest(self, index: int) -> bytes:
        """Name of full block `index` of this sequence."""
        digests, size = self.digests, self.block_size
        for block in range(len(digests) - 1, index + 1):
            end = (block + 1) * size
            num_generated = 0
            if self.distinguishes_prompts:
                num_generated = min(size, max(0, end - self.num_prompt_tokens))
            tokens = self.token_ids[block * size : end]
            digests.append(chain_digest(digests[-1], tokens, num_generated))
        return digests[index + 1]

    def end_of_kind(self, start: int, end: int) -> int:
        """How far tokens from `start` up to `end` may be computed in one step."""
        if self.distinguishes_prompts and start < self.num_prompt_tokens:
            return min(end, self.num_prompt_tokens)
        return end

    def append(self, token_ids: list[int]) -> int:
        """Append sampled tokens up to the one that ends the request; return how many were taken.

        A stop token ends it from token `min_tokens + 1` on, and wins over the length limit.
        """
        known = self.token_ids
        for taken, token in enumerate(token_ids, 1):
            known.append(token)
            if token in self.stop_token_ids and len(known) > self.min_length:
                self.finish_reason = FinishReason.EOS_TOKEN
                return taken
            if len(known) >= self.max_length:
                self.finish_reason = FinishReason.LENGTH
                return taken
        return len(token_ids)

    @property
    def is_ready(self) -> bool:
        """False while the mask for its next token is being computed."""
        return self.constraint is None or self.constraint.is_ready

    def row_start(self) -> RowStart:
        return RowStart(
            row=self.row,
            params=self.params,
            token_ids=self.token_ids.copy(),
            num_prompt_tokens=self.num_prompt_tokens,
        )

    def reset(self) -> None:
        """Forget what was computed, after preemption."""
        self.row = NO_ROW
        self.num_computed = 0
        self.block_ids = []
        self.num_sent_blocks = 0
        self.next_full = self.block_size
        self.draft_ids = []
        self.num_preemptions += 1
        if self.prompt_logprobs is not None:
            self.prompt_logprobs = []
            self.prompt_top_logprobs = []

    def timings(self, now: float) -> Timings:
        start_time = self.start_time or now
        first_token_time = self.first_token_time or now
        return Timings(
            queue_time=start_time - self.arrival_time,
            prefill_time=first_token_time - start_time,
            decode_time=now - first_token_time,
            num_cached_tokens=self.num_cached_tokens,
            num_preemptions=self.num_preemptions,
            num_draft_tokens=self.num_draft_tokens,
            num_accepted_tokens=self.num_accepted_tokens,
            num_forced_tokens=self.num_forced_tokens,
            num_draft_steps=self.num_draft_steps,
        )
