"""What a grammar makes of the tokens behind the next one, token by token."""

import pytest

from headrace.engine.grammar import GrammarCompiler
from headrace.engine.lookahead import Lookahead, allows, look_ahead, only_token, place
from headrace.engine.speculation.habits import Habits
from headrace.types import Grammar
from tests.engine.vocabulary import EOS, ByteVocabulary

COMPILER = GrammarCompiler(ByteVocabulary, 300)
MASK_SIZE = 40  # 300 bits in words of 32


def ahead(
    regex: str,
    proposed: bytes,
    known: bytes = b"",
    max_drafts: int = 20,
    habit: bytes = b"",
    least: float = 0.0,
) -> Lookahead:
    """Behind `known`; `habit` is a text that was seen often."""
    grammar, habits = Grammar(kind="regex", source=regex), Habits()
    for _ in range(10):
        matcher = COMPILER.matcher(grammar)
        for index, token_id in enumerate(habit):
            habits.observe(matcher.compute_bitmask(), habit[:index], token_id)
            matcher.consume_token(token_id)
    matcher = COMPILER.matcher(grammar)
    matcher.consume_tokens(list(known))
    here = place(matcher, MASK_SIZE)
    return look_ahead(matcher, here, list(known), list(proposed), habits, least, max_drafts)


def drafts(ahead: Lookahead) -> bytes:
    assert len(ahead.masks) == len(ahead.draft_ids) + 1
    return bytes(token for token in ahead.draft_ids if token != EOS)


def test_a_place_has_a_forced_token_with_and_without_the_short_cut() -> None:
    for known, forced_id in ((b"", None), (b"a", ord("-")), (b"a-7", EOS)):
        matcher = COMPILER.matcher(Grammar(kind="regex", source="[ab]-[0-9]"))
        matcher.consume_tokens(list(known))
        here = place(matcher, 0)
        assert here.forced_id == only_token(here.mask) == forced_id
        assert place(matcher, MASK_SIZE) == here


def test_masks_of_one_token_and_of_several() -> None:
    assert only_token((1 << 77).to_bytes(MASK_SIZE, "little")) == 77
    assert only_token((1 << 77 | 1).to_bytes(MASK_SIZE, "little")) is None
    assert only_token(bytes(MASK_SIZE)) is None
    mask = (1 << 9 | 1 << 299).to_bytes(MASK_SIZE, "little")
    assert [token for token in range(300) if allows(mask, token)] == [9, 299]


def test_forced_tokens_come_without_being_proposed() -> None:
    result = ahead("[ab]-->[cd]", b"", known=b"a")
    assert (drafts(result), result.num_forced) == (b"-->", 3)


@pytest.mark.parametrize(
    ("proposed", "taken"), [(b"12", b"12"), (b"1x", b"1"), (b"x1", b""), (b"123", b"12")]
)
def test_a_proposal_goes_as_far_as_it_is_allowed(proposed: bytes, taken: bytes) -> None:
    result = ahead("[0-9]{2}[a-z]", proposed)
    assert (drafts(result), result.num_forced) == (taken, 0)


def test_only_forced_tokens_in_front_of_all_others_count_as_forced() -> None:
    result = ahead("--[0-9]--[0-9]", b"--7--8")
    assert (drafts(result), result.num_forced) == (b"--7--8", 2)
    assert result.draft_ids[-1] == EOS  # which is forced as well


def test_a_proposal_that_holds_the_forced_tokens_goes_on() -> None:
    assert drafts(ahead("[0-9]--[0-9]{2}", b"7--89")) == b"7--89"


def test_a_proposal_without_the_forced_tokens_ends_there() -> None:
    assert drafts(ahead("[0-9]--[0-9]{2}", b"789")) == b"7--"


@pytest.mark.parametrize(
    ("known", "proposed", "taken"),
    [
        (b"", b"", b"1,a;"),
        (b"2", b"", b",a;"),  # what comes behind a number does not depend on the number
        (b"2", b"x", b",a;"),
        (b"2", b",b", b",b;"),  # the proposal first
    ],
)
def test_habits_go_on_where_a_proposal_ends(known: bytes, proposed: bytes, taken: bytes) -> None:
    result = ahead("[12][,.][ab][;:]", proposed, known=known, habit=b"1,a;")
    assert (drafts(result), result.num_forced) == (taken, 0)


def test_habits_are_followed_as_far_as_all_of_them_are_probable_enough() -> None:
    certain, doubtful = (ahead("[ab]{20}", b"", habit=b"a", least=least) for least in (0.0, 0.8))
    assert 0 < len(doubtful.draft_ids) < len(certain.draft_ids) == 20
    assert ahead("[ab]{20}", b"", habit=b"a", least=1.0).draft_ids == []


def test_no_more_than_allowed_and_nothing_behind_the_end() -> None:
    for max_drafts in range(6):
        result = ahead("-{9}", b"", max_drafts=max_drafts)
        assert drafts(result) == b"-" * max_drafts
    result = ahead("ab", b"ab" + bytes([7, 7]), max_drafts=20)
    assert (drafts(result), result.draft_ids[-1]) == (b"ab", EOS)


def test_habits_follow_the_tokens_in_front_where_masks_are_the_same() -> None:
    twice = {"regex": "[ab][ab][ab][ab]", "proposed": b"", "habit": b"abba"}
    assert drafts(ahead(**twice, known=b"a")).startswith(b"bba")
    assert drafts(ahead(**twice, known=b"ab")).startswith(b"ba")
