"""One request's grammar at work: follows its tokens and says which may come next.

Wraps an llguidance matcher, within a limit on computing time. Knows no other request.
"""

import time
from collections.abc import Callable
from typing import Final

from llguidance import LLMatcher

from headrace.errors import ValidationError

INITIAL_SECONDS: Final = 0.25
SECONDS_PER_TOKEN: Final = 0.005
"""Computing time that the masks of one request may take: so much at once, and more with every
token. Ordinary grammars need a hundredth of it."""
MAX_MESSAGE_LENGTH: Final = 500


class Constraint:
    """The place of one request in its grammar.

    `output_ids` are the tokens that a resumed request has already emitted. A mask mostly takes some
    10 us, but a hostile grammar can make it take half a second: `submit` runs that in a thread (the
    library releases the GIL), and the request sits out while `is_ready` is False. It stays so after
    a failure, of which the job's owner hears.

    Of `max_lookahead` tokens at most it finds out in the same job whether a draft may come, and
    which tokens must come because the mask holds just one.

    Raises ValidationError when there is no first mask.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        output_ids: list[int],
        submit: Callable[[Callable[[], None]], None],
        max_lookahead: int = 0,
    ) -> None:
        self._matcher = matcher
        self._submit = submit
        self._max_lookahead = max_lookahead
        self._seconds_left = INITIAL_SECONDS
        # An account of its own: what is looked at in vain must not end the request.
        self._lookahead_seconds_left = INITIAL_SECONDS
        self._forced_ids: list[int] = []
        """Forced tokens that were taken and that the matcher has not seen."""
        self.is_ready = False
        self.draft_ids: list[int] = []
        self.num_forced = 0
        self._masks: list[bytes] = []
        """Before each draft and behind the last. Bit t % 32 of the 32-bit word t // 32 stands for
        token t."""
        self._advance(output_ids, [])

    def masks(self, num_drafts: int) -> bytes:
        """See `request.Constraint`."""
        return b"".join(self._masks[: num_drafts + 1])

    def jump_forward(self) -> list[int]:
        """See `request.Constraint`."""
        count, self.num_forced = self.num_forced, 0
        self._forced_ids = self.draft_ids[:count]
        self.draft_ids = self.draft_ids[count:]
        self._masks = self._masks[count:]
        return self._forced_ids

    def accept(self, token_ids: list[int], draft_ids: list[int]) -> None:
        """See `request.Constraint`."""
        self.is_ready = False
        known, self._forced_ids = self._forced_ids + token_ids, []
        self._submit(lambda: self._advance(known, draft_ids))

    def _advance(self, token_ids: list[int], proposed_ids: list[int]) -> None:
        begin = time.thread_time()
        self._matcher.consume_tokens(token_ids)
        self._masks = [self._matcher.compute_bitmask()]
        check(self._matcher)
        used = time.thread_time() - begin
        self._seconds_left += len(token_ids) * SECONDS_PER_TOKEN - used
        if self._seconds_left < 0:
            raise ValidationError("grammar is not valid: it takes too long to follow")
        self.draft_ids, self.num_forced = [], 0
        if self._max_lookahead and self._lookahead_seconds_left > 0:
            self._look_ahead(self._matcher.deep_copy(), proposed_ids)
            self._lookahead_seconds_left += used - (time.thread_time() - begin)
            self._lookahead_seconds_left += len(token_ids) * SECONDS_PER_TOKEN
        self.is_ready = True

    def _look_ahead(self, matcher: LLMatcher, proposed_ids: list[int]) -> None:
        """Follow forced tokens, and proposed ones as long as they are allowed."""
        for position in range(self._max_lookahead):
            mask = self._masks[-1]
            proposed_id = proposed_ids[position] if position < len(proposed_ids) else None
            token_id = only_token(mask)
            is_forced = token_id is not None
            if token_id is None:
                if proposed_id is None or not allows(mask, proposed_id):
                    return
                token_id = proposed_id
            elif token_id != proposed_id:
                proposed_ids = []
            is_last = matcher.is_stopped()
            if not is_last:
                matcher.consume_token(token_id)
                mask = matcher.compute_bitmask()
            if matcher.is_error():
                return
            self.num_forced += is_forced and self.num_forced == position
            self.draft_ids.append(token_id)
            self._masks.append(mask)
            if is_last:
                return


def only_token(mask: bytes) -> int | None:
    """The token that a mask allows, if it is just one."""
    bits = int.from_bytes(mask, "little")
    return bits.bit_length() - 1 if bits.bit_count() == 1 else None


def allows(mask: bytes, token_id: int) -> bool:
    return bool(mask[token_id // 8] >> token_id % 8 & 1)


def check(matcher: LLMatcher) -> None:
    """Raise ValidationError when the matcher has given up."""
    if matcher.is_error():
        reason = matcher.get_error().removesuffix("\n<non-verbose/>")
        raise ValidationError(f"grammar is not valid: {reason[:MAX_MESSAGE_LENGTH]}")
