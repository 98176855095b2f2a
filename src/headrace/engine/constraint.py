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

    Raises ValidationError when there is no first mask.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        output_ids: list[int],
        submit: Callable[[Callable[[], None]], None],
    ) -> None:
        self._matcher = matcher
        self._submit = submit
        self._seconds_left = INITIAL_SECONDS
        self.is_ready = False
        self.mask = b""
        """Allowed tokens: bit t % 32 of the 32-bit word t // 32 stands for token t."""
        self._advance(output_ids)

    def accept(self, token_ids: list[int]) -> None:
        """Go on to the mask that follows these tokens."""
        self.is_ready = False
        self._submit(lambda: self._advance(token_ids))

    def _advance(self, token_ids: list[int]) -> None:
        begin = time.thread_time()
        self._matcher.consume_tokens(token_ids)
        self.mask = self._matcher.compute_bitmask()
        check(self._matcher)
        used = time.thread_time() - begin
        self._seconds_left += len(token_ids) * SECONDS_PER_TOKEN - used
        if self._seconds_left < 0:
            raise ValidationError("grammar is not valid: it takes too long to follow")
        self.is_ready = True


def check(matcher: LLMatcher) -> None:
    """Raise ValidationError when the matcher has given up."""
    if matcher.is_error():
        reason = matcher.get_error().removesuffix("\n<non-verbose/>")
        raise ValidationError(f"grammar is not valid: {reason[:MAX_MESSAGE_LENGTH]}")
