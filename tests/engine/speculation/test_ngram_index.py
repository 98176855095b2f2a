from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.speculation import ngram_index
from headrace.engine.speculation.ngram_index import MATCH_LENGTHS, NUM_CANDIDATES, Match, NgramIndex

tokens = st.lists(st.integers(0, 2), max_size=60)


def level_at(text: list[int], suffix: list[int], end: int) -> int:
    fits = [
        length <= min(end, len(suffix)) and text[end - length : end] == suffix[-length:]
        for length in MATCH_LENGTHS
    ]
    return fits.index(False) - 1 if False in fits else len(fits) - 1


@given(st.lists(tokens, min_size=1, max_size=5))
def test_finds_the_longest_of_the_newest_places(parts: list[list[int]]) -> None:
    text: list[int] = []
    index = NgramIndex(text)
    for part in parts:
        text += part
        index.extend()
        before_last = range(len(text) - 1, 1, -1)
        pairs = [end for end in before_last if text[end - 2 : end] == text[-2:]]
        singles = [end for end in before_last if text[end - 1] == text[-1]]
        places = pairs[:NUM_CANDIDATES] or singles[:1]
        levels = [(level_at(text, text, end), end) for end in places]
        assert index.longest_match(text) == (max(levels) if levels and len(text) > 1 else None)


def test_another_text_is_searched_up_to_its_end_only() -> None:
    index = NgramIndex([1, 2, 3, 4, 5])
    index.extend()
    match = index.longest_match([9, 2, 3])
    assert match is not None and index.text[match.end :] == [4, 5]
    assert index.longest_match([4, 5]) is None  # nothing follows
    assert index.longest_match([3]) is None
    assert index.longest_match([9, 3]) == Match(0, 3)


def test_a_hint_finds_what_is_too_far_back() -> None:
    text = [7, 8, 1, 2, 3, *[1, 2, 9] * NUM_CANDIDATES, 7, 8, 1, 2]
    index = NgramIndex(text)
    index.extend()
    without = index.longest_match(text)
    assert without is not None and text[without.end] == 9
    match = index.longest_match(text, hint=4)
    assert match is not None and text[match.end] == 3
    assert index.longest_match(text, hint=len(text)) == without


def test_nothing_is_indexed_twice_and_long_prompts_take_several_calls() -> None:
    length = ngram_index.MAX_NEW_TOKENS
    text = [5, 6, *range(10, 10 + 2 * length), 5, 6]
    index = NgramIndex(text)
    for _ in range(2):
        index.extend()
    assert len(index._previous) == 2 + 2 * length  # two slots before the first pair
    index.extend()
    index.extend()
    assert len(index._previous) == len(text)
    match = index.longest_match(text)
    assert match is not None and match.end == 2
