"""What a grammar makes of the tokens behind the next one: which must come, which guesses may.

Works on a copy of a request's matcher. Knows masks and tokens; no request and no clock.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from llguidance import LLMatcher

from headrace.engine.speculation.habits import Habits

LEAST_PROBABILITY: Final = 0.7
"""Of a guess out of habit: what is less certain costs more than it gains (docs/LOG.md)."""


class Place(NamedTuple):
    """What a grammar says of one token."""

    mask: bytes
    """Bit t % 32 of the 32-bit word t // 32 stands for token t."""
    forced_id: int | None
    """The token that the mask allows, if it is just one."""


@dataclass(slots=True)
class Lookahead:
    """Drafts that the grammar allows."""

    masks: list[bytes]
    """Before each draft and behind the last."""
    draft_ids: list[int] = field(default_factory=list)
    num_forced: int = 0
    """How many of them, from the first on, the grammar leaves no choice of."""


def place(matcher: LLMatcher, mask_size: int) -> Place:
    """Where a matcher is.

    Forced tokens are found in a tenth of the time of a mask if `mask_size`, a mask's number of
    bytes, is known (not 0).
    """
    if mask_size and (forced_ids := matcher.compute_ff_tokens()):
        return Place((1 << forced_ids[0]).to_bytes(mask_size, "little"), forced_ids[0])
    mask = matcher.compute_bitmask()
    return Place(mask, only_token(mask))


def look_ahead(
    matcher: LLMatcher,
    here: Place,
    before_ids: list[int],
    proposed_ids: list[int],
    habits: Habits,
    least: float,
    max_drafts: int,
) -> Lookahead:
    """Follow forced tokens, and proposed ones as long as they are allowed; where these end, habits
    while the guesses are all right with the probability `least`. `here` is the matcher's place,
    behind `before_ids`."""
    mask, forced_id = here
    ahead, probability = Lookahead([mask]), 1.0
    while len(ahead.draft_ids) < max_drafts:
        token_id = forced_id
        if token_id is None:
            if not proposed_ids or not allows(mask, proposed_ids[0]):
                guess = habits.guess(mask, before_ids + ahead.draft_ids)
                if guess is None or guess.probability < max(LEAST_PROBABILITY, least / probability):
                    break
                probability *= guess.probability
                proposed_ids = [guess.token_id]
            token_id = proposed_ids[0]
        proposed_ids = proposed_ids[1:] if proposed_ids[:1] == [token_id] else []
        is_last, was_forced = matcher.is_stopped(), forced_id is not None
        if not is_last:
            matcher.consume_token(token_id)
            mask, forced_id = place(matcher, len(mask))
        if matcher.is_error():
            break
        ahead.num_forced += was_forced and ahead.num_forced == len(ahead.draft_ids)
        ahead.draft_ids.append(token_id)
        ahead.masks.append(mask)
        if is_last:
            break
    return ahead


def only_token(mask: bytes) -> int | None:
    """The token that a mask allows, if it is just one."""
    bits = int.from_bytes(mask, "little")
    return bits.bit_length() - 1 if bits.bit_count() == 1 else None


def allows(mask: bytes, token_id: int) -> bool:
    return bool(mask[token_id // 8] >> token_id % 8 & 1)
