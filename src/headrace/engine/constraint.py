"""One request's grammar at work: follows its tokens and says which may come next.

Wraps an llguidance matcher, within a limit on computing time. Knows no other request.
"""

import time
from collections.abc import Callable
from typing import Final

from llguidance import LLMatcher

from headrace.engine.lookahead import Lookahead, look_ahead, place
from headrace.engine.speculation.habits import MAX_CONTEXT, Habits
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

    Of `max_lookahead` tokens at most it finds out in the same job whether a draft may come, which
    tokens must come because the mask holds just one, and which mostly come by `habits`, to which
    it adds.

    Raises ValidationError when there is no first mask.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        output_ids: list[int],
        submit: Callable[[Callable[[], None]], None],
        habits: Habits,
        max_lookahead: int = 0,
    ) -> None:
        self._matcher = matcher
        self._submit = submit
        self._habits = habits
        self._max_lookahead = max_lookahead
        self._seconds_left = INITIAL_SECONDS
        # An account of its own: what is looked at in vain must not end the request.
        self._lookahead_seconds_left = INITIAL_SECONDS
        self._num_jumped = 0
        """Drafts that were taken because they are forced, and that the matcher has not seen."""
        self.is_ready = False
        self._ahead = Lookahead([b""])
        self._last_ids: list[int] = []
        """As many tokens as habits depend on."""
        self._advance(output_ids, [], 1.0)

    @property
    def draft_ids(self) -> list[int]:
        """See `request.Constraint`."""
        return self._ahead.draft_ids[self._num_jumped :]

    @property
    def num_forced(self) -> int:
        """See `request.Constraint`."""
        return self._ahead.num_forced - self._num_jumped

    def masks(self, num_drafts: int) -> bytes:
        """See `request.Constraint`."""
        begin = self._num_jumped
        return b"".join(self._ahead.masks[begin : begin + num_drafts + 1])

    def jump_forward(self) -> list[int]:
        """See `request.Constraint`."""
        forced_ids = self._ahead.draft_ids[self._num_jumped : self._ahead.num_forced]
        self._num_jumped = self._ahead.num_forced
        return forced_ids

    def accept(self, token_ids: list[int], draft_ids: list[int], least: float) -> None:
        """See `request.Constraint`."""
        self.is_ready = False
        known = self._ahead.draft_ids[: self._num_jumped] + token_ids
        self._submit(lambda: self._advance(known, draft_ids, least))

    def _advance(self, token_ids: list[int], proposed_ids: list[int], least: float) -> None:
        begin = time.thread_time()
        self._matcher.consume_tokens(token_ids)
        here = place(self._matcher, len(self._ahead.masks[0]))
        check(self._matcher)
        used = time.thread_time() - begin
        self._seconds_left += len(token_ids) * SECONDS_PER_TOKEN - used
        if self._seconds_left < 0:
            raise ValidationError("grammar is not valid: it takes too long to follow")
        masks = self._ahead.masks
        self._ahead, self._num_jumped = Lookahead([here.mask]), 0
        if self._max_lookahead and self._lookahead_seconds_left > 0:
            self._observe(masks, token_ids)
            copy, last_ids = self._matcher.deep_copy(), self._last_ids
            self._ahead = look_ahead(
                copy, here, last_ids, proposed_ids, self._habits, least, self._max_lookahead
            )
            self._lookahead_seconds_left += used - (time.thread_time() - begin)
            self._lookahead_seconds_left += len(token_ids) * SECONDS_PER_TOKEN
        self.is_ready = True

    def _observe(self, masks: list[bytes], token_ids: list[int]) -> None:
        for mask, token_id in zip(masks, token_ids, strict=False):
            self._habits.observe(mask, self._last_ids, token_id)
            self._last_ids = [*self._last_ids, token_id][-MAX_CONTEXT:]


def check(matcher: LLMatcher) -> None:
    """Raise ValidationError when the matcher has given up."""
    if matcher.is_error():
        reason = matcher.get_error().removesuffix("\n<non-verbose/>")
        raise ValidationError(f"grammar is not valid: {reason[:MAX_MESSAGE_LENGTH]}")
