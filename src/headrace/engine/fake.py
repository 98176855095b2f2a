"""An executor without a model, for tests of everything above the device.

Its next token depends on all tokens of the row, and it sees them only through its own KV cache and
the block table it was told of: a wrong table, slot, shared block or `num_computed` changes tokens.
"""

import time
from array import array
from zlib import crc32

from headrace.types import RowOutput, RowStart, SamplingParams, StepOutput, StepPlan

EMPTY = -1


def key_value(before: int, token_id: int, kind: int = 0) -> int:
    """What the cache holds for a token: it depends, as in a model, on all tokens before it, and on
    the arithmetic of its kind."""
    return crc32(token_id.to_bytes(8, "little"), before ^ kind)


def sample(
    context: "array[int]", params: SamplingParams, vocab_size: int, mask: bytes | None = None
) -> int:
    """Next token after a context of `key_value`s; the seed counts unless greedy."""
    seed = params.seed & 0xFFFFFFFF if params.temperature > 0 else 0
    number = crc32(context.tobytes(), seed)
    if mask is None:
        return number % vocab_size
    allowed = [token for token in range(vocab_size) if mask[token // 8] >> token % 8 & 1]
    return allowed[number % len(allowed)]


def logprob(key_value: int, token_id: int) -> float:
    """A made-up log-probability in (-8, 0] of a token after a context that ends so."""
    return -(crc32(token_id.to_bytes(8, "little"), key_value ^ 1) % 1024) / 128


def top_logprobs(
    key_value: int, token_id: int, count: int, vocab_size: int
) -> list[tuple[int, float]]:
    """A made-up ranking: the token and those numbered after it, best first."""
    ids = [candidate % vocab_size for candidate in range(token_id, token_id + count)]
    return sorted(((id, logprob(key_value, id)) for id in ids), key=lambda pair: -pair[1])


GENERATED = 1
"""Kind of generated tokens where they are not computed as those of prompts, which are 0."""


class _Row:
    def __init__(self, start: RowStart) -> None:
        self.params = start.params
        self.num_prompt_tokens = start.num_prompt_tokens
        self.token_ids = start.token_ids
        self.block_table: list[int] = []
        self.masks: list[bytes | None] = []
        """Of this step's samples."""


class FakeExecutor:
    """Computes plans with checksums in place of a model.

    `step_delay` (seconds) is slept in every step. A row that computes the token `poison` ends with
    an error of its own; the token `lethal` makes `execute` raise, as a broken device would.
    `distinguishes_prompts`: see `EngineInfo`; the kind of a token then changes all that follow.
    """

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        vocab_size: int = 1000,
        step_delay: float = 0.0,
        poison: int | None = None,
        lethal: int | None = None,
        distinguishes_prompts: bool = False,
    ) -> None:
        self.distinguishes_prompts = distinguishes_prompts
        self.block_size = block_size
        self.vocab_size = vocab_size
        self.step_delay = step_delay
        self.poison = poison
        self.lethal = lethal
        self.num_computed_tokens = 0
        """Since the start, recomputed ones included."""
        self._cache = array("q", [EMPTY]) * (num_blocks * block_size)
        self._rows: dict[int, _Row] = {}

    def execute(self, plan: StepPlan) -> StepOutput:
        time.sleep(self.step_delay)
        for row in plan.ended:
            del self._rows[row]
        for row_start in plan.started:
            assert row_start.row not in self._rows, f"row {row_start.row} started twice"
            self._rows[row_start.row] = _Row(row_start)
        if self.distinguishes_prompts:
            self._check_order(plan)
        outputs = []
        offset = 0
        for index, (row, start, count, blocks, num_samples) in enumerate(
            zip(plan.rows, plan.starts, plan.counts, plan.new_blocks, plan.num_samples, strict=True)
        ):
            token_ids = plan.token_ids[offset : offset + count]
            offset += count
            self._rows[row].block_table += blocks
            self._rows[row].masks = _split(plan.masks.get(index), num_samples)
            output = self._run_row(self._rows[row], start, token_ids, num_samples)
            if index in plan.num_drafts and output.error is None:
                known = start + count - num_samples + 1
                output.draft_ids = self._draft(
                    self._rows[row], known, output, plan.num_drafts[index]
                )
            outputs.append(output)
        assert offset == len(plan.token_ids)
        self.num_computed_tokens += offset
        return StepOutput(rows=outputs)

    def prepare(self) -> bool:
        """There is no memory to take."""
        return False

    def _check_order(self, plan: StepPlan) -> None:
        pairs = zip(plan.rows, plan.starts, strict=True)
        kinds = [self._kind(self._rows[row], start) for row, start in pairs]
        num_others = len(kinds) - plan.num_prompt_rows
        assert kinds == [GENERATED] * num_others + [0] * plan.num_prompt_rows, "prompts not last"

    def _slot(self, row: _Row, position: int) -> int:
        block = row.block_table[position // self.block_size]
        return block * self.block_size + position % self.block_size

    def _kind(self, row: _Row, position: int) -> int:
        is_generated = self.distinguishes_prompts and position >= row.num_prompt_tokens
        return GENERATED if is_generated else 0

    def _run_row(self, row: _Row, start: int, token_ids: list[int], num_samples: int) -> RowOutput:
        if self.lethal in token_ids:
            raise RuntimeError("the fake device is broken")
        if self.poison in token_ids:
            return RowOutput(token_ids=[], error=f"token {self.poison} is poison")
        value = self._cache[self._slot(row, start - 1)] if start else 0
        kind = self._kind(row, start)
        assert kind == self._kind(row, start + len(token_ids) - 1), "tokens of both kinds in a step"
        computed = []
        for position, token_id in enumerate(token_ids, start):
            value = key_value(value, token_id, kind)
            self._cache[self._slot(row, position)] = value
            computed.append(value)
        output = RowOutput(token_ids=[])
        if row.params.prompt_logprobs:
            self._score_prompt(row, start, computed, output)
        if num_samples:
            first = start + len(token_ids) - num_samples + 1
            self._sample(row, first, token_ids[len(token_ids) - num_samples + 1 :], output)
        return output

    def _score_prompt(self, row: _Row, start: int, computed: list[int], output: RowOutput) -> None:
        following = row.token_ids[start + 1 : row.num_prompt_tokens]
        pairs = list(zip(computed, following, strict=False))
        output.prompt_logprobs = [logprob(value, token) for value, token in pairs]
        num_top = row.params.num_top_logprobs or 0
        output.prompt_top_logprobs = [
            top_logprobs(value, token, num_top, self.vocab_size) for value, token in pairs
        ]

    def _sample(self, row: _Row, first: int, drafts: list[int], output: RowOutput) -> None:
        """At position `first`, and behind each draft as long as it is what was sampled."""
        num_top = row.params.num_top_logprobs
        if num_top is not None:
            output.logprobs, output.top_logprobs = [], []
        for offset, mask in enumerate(row.masks):
            context_len = first + offset
            context = array("q", [self._cache[self._slot(row, p)] for p in range(context_len)])
            assert EMPTY not in context, "read of a slot that was never written"
            token = sample(context, row.params, self.vocab_size, mask)
            output.token_ids.append(token)
            if output.logprobs is not None and output.top_logprobs is not None:
                output.logprobs.append(logprob(context[-1], token))
                top = top_logprobs(context[-1], token, num_top or 0, self.vocab_size)
                output.top_logprobs.append(top)
            if offset < len(drafts) and drafts[offset] != token:
                break

    def _draft(self, row: _Row, known: int, output: RowOutput, count: int) -> list[int]:
        """The tokens that come next (a grammar aside), but for every third, which is wrong."""
        context = array("q", [self._cache[self._slot(row, p)] for p in range(known)])
        kind = self._kind(row, known)
        for token in output.token_ids:
            context.append(key_value(context[-1], token, kind))
        drafts = []
        for _ in range(count):
            token = sample(context, row.params, self.vocab_size)
            drafts.append((token + (token % 3 == 0)) % self.vocab_size)
            context.append(key_value(context[-1], drafts[-1], kind))
        return drafts


def _split(masks: bytes | None, num_samples: int) -> list[bytes | None]:
    """One mask per sample."""
    if masks is None:
        return [None] * num_samples
    size = len(masks) // num_samples
    return [masks[i * size : (i + 1) * size] for i in range(num_samples)]
