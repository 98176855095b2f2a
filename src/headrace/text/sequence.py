"""One generated sequence: engine events in, text deltas out.

Detokenizes, looks for stop strings and notes how the sequence ends. Pure state, no waiting.
Hot file: `SequenceText.update` runs once per engine step and stream.
"""

import time
from collections import Counter
from collections.abc import Iterable

import msgspec

from headrace.errors import GenerationError, ValidationError
from headrace.text.float32 import shortest
from headrace.text.generation import Finish, GenerationRequest, PromptInfo, TextDelta, TokenText
from headrace.text.stop import StopMatcher
from headrace.text.tokenizer import Tokenizer
from headrace.types import Add, FinishReason, Timings, TokenEvent


class SequenceText:
    """The text of sequence `index`, as far as it is known."""

    def __init__(
        self,
        index: int,
        add: Add,
        request: GenerationRequest,
        tokenizer: Tokenizer,
        validation_time: float,
    ) -> None:
        self._index = index
        self._add = add
        self._request = request
        self._tokenizer = tokenizer
        self._special_ids = tokenizer.special_ids
        self._detokenizer = tokenizer.detokenizer(
            request.skip_special_tokens, request.shown_token_ids
        )
        self._stop = StopMatcher(request.stop)
        self._validation_time = validation_time
        self._started = time.monotonic()
        self._first_token_at = self._started
        self._timings: Timings | None = None
        self._drafting: Counter[str] = Counter()
        """Fields of `Timings` that grow from event to event."""
        self._num_tokens = 0
        self._text: list[str] = []

    def update(self, event: TokenEvent) -> TextDelta:
        """What the event adds. The delta has `finish` when the sequence is over, be it by the
        engine's word or because a stop string was found. Raises GenerationError, or
        ValidationError when the engine found the request to be at fault."""
        if event.error is not None:
            raise (ValidationError if event.is_invalid else GenerationError)(event.error)
        if self._request.max_new_tokens == 0:
            event = _without_tokens(event)
        prompt = None if self._num_tokens else self._begin(event)
        tokens, text = self._take(event)
        self._num_tokens += len(tokens)
        self._count_drafts(event)
        stopped = self._stop.match is not None
        reason = FinishReason.STOP_SEQUENCE if stopped else event.finish_reason
        if reason is not None:
            text += self._tail()
        self._text.append(text)
        finish = None if reason is None else self._finish(reason, event)
        return TextDelta(self._index, text, tokens, prompt, finish)

    def _count_drafts(self, event: TokenEvent) -> None:
        if event.is_forced:
            self._drafting["num_forced_tokens"] += len(event.token_ids)
        elif event.num_draft_tokens:
            self._drafting["num_draft_tokens"] += event.num_draft_tokens
            self._drafting["num_accepted_tokens"] += len(event.token_ids) - 1
            self._drafting["num_draft_steps"] += 1

    def _begin(self, event: TokenEvent) -> PromptInfo:
        self._first_token_at = time.monotonic()
        # Kept, because a sequence that a stop string ends never sees the engine's last event.
        self._timings = event.timings
        ids = self._add.prompt_ids
        logprobs = event.prompt_logprobs
        num_cached_tokens = 0 if event.timings is None else event.timings.num_cached_tokens
        if logprobs is None:
            return PromptInfo(len(ids), num_cached_tokens)
        tops = event.prompt_top_logprobs or [[] for _ in ids]
        tokens = tuple(
            msgspec.structs.replace(self._describe(id, logprob), top=self._describe_all(top))
            for id, logprob, top in zip(ids, logprobs, tops, strict=True)
        )
        return PromptInfo(len(ids), num_cached_tokens, tokens)

    def _take(self, event: TokenEvent) -> tuple[tuple[TokenText, ...], str]:
        """Tokens, and the text they release; tokens after a stop string do not count."""
        tokens: list[TokenText] = []
        released = ""
        for position, token_id in enumerate(event.token_ids):
            if event.finish_reason is FinishReason.EOS_TOKEN and self._is_hidden(event, position):
                piece = ""
            else:
                piece = self._detokenizer.feed(token_id)
            tokens.append(self._token(event, position, piece))
            released += self._stop.feed(piece)
            if self._stop.match is not None:
                break
        return tuple(tokens), released

    def _is_hidden(self, event: TokenEvent, position: int) -> bool:
        """The token that ends a sequence, if it is an ordinary one, is no part of the text."""
        return (
            position == len(event.token_ids) - 1
            and not self._request.keep_stop_text
            and event.token_ids[position] not in self._special_ids
        )

    def _token(self, event: TokenEvent, position: int, piece: str) -> TokenText:
        token_id = event.token_ids[position]
        special = token_id in self._special_ids
        text = self._tokenizer.text_of(token_id) if special else piece
        if event.logprobs is None:
            return TokenText(token_id, text, None, special)
        top = event.top_logprobs[position] if event.top_logprobs is not None else ()
        likeliest = self._describe_all(top)
        return TokenText(token_id, text, shortest(event.logprobs[position]), special, likeliest)

    def _describe_all(self, top: Iterable[tuple[int, float]]) -> tuple[TokenText, ...]:
        return tuple(self._describe(token_id, logprob) for token_id, logprob in top)

    def _describe(self, token_id: int, logprob: float | None) -> TokenText:
        """A token on its own, outside the generated text."""
        text = self._tokenizer.text_of(token_id)
        value = None if logprob is None else shortest(logprob)
        return TokenText(token_id, text, value, token_id in self._special_ids)

    def _tail(self) -> str:
        """What the end of the sequence still adds to the text."""
        if self._stop.match is None:
            return self._stop.flush() + self._detokenizer.flush()
        return self._stop.match if self._request.keep_stop_text else ""

    def _finish(self, reason: FinishReason, event: TokenEvent) -> Finish:
        params = self._add.params
        stop: str | int | None = self._stop.match
        if reason is FinishReason.EOS_TOKEN and event.token_ids[-1] in self._request.stop_token_ids:
            stop = event.token_ids[-1]
        return Finish(
            reason=reason,
            num_tokens=self._num_tokens,
            text="".join(self._text),
            seed=params.seed if params.temperature > 0 else None,
            timings=event.timings or self._measured_timings(),
            validation_time=self._validation_time,
            stop=stop,
        )

    def _measured_timings(self) -> Timings:
        """After a stop string the engine is not asked any more: the front end's own clock."""
        known = self._timings or Timings(
            queue_time=0.0,
            prefill_time=self._first_token_at - self._started,
            decode_time=0.0,
            num_cached_tokens=0,
        )
        decode_time = time.monotonic() - self._first_token_at
        return msgspec.structs.replace(known, decode_time=decode_time, **self._drafting)


def _without_tokens(event: TokenEvent) -> TokenEvent:
    """The answer to a request that only wants its prompt scored; an engine always samples one."""
    return msgspec.structs.replace(
        event, token_ids=[], logprobs=None, top_logprobs=None, finish_reason=FinishReason.LENGTH
    )
