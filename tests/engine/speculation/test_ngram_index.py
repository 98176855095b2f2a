import random

from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.speculation.ngram_index import (
    BEFORE,
    MAX_LENGTH,
    MAX_NEW_TOKENS,
    NOWHERE,
    ORDERS,
    Match,
    NgramIndex,
    keys,
)


def find(text: list[int], suffix: list[int]) -> Match | None:
    """The definition: the newest place of the longest n-gram that occurs, by looking everywhere.
    Where a text begins is part of its n-grams."""
    padded, wanted = [*BEFORE, *text], [*BEFORE, *suffix]
    for order in ORDERS:
        ends = [
            end for end in range(1, len(text))
            if padded[end + 3 - order : end + 3] == wanted[-order:]
        ]  # fmt: skip
        if ends:
            end, length = ends[-1], 0
            most = min(end, len(suffix), MAX_LENGTH) if order == 4 else order
            while length < most and text[end - length - 1] == suffix[-length - 1]:
                length += 1
            return Match(length, end, ends[-2] if len(ends) > 1 else NOWHERE)
    return None


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.lists(st.integers(0, 3)))
def test_it_finds_what_looking_everywhere_finds(text: list[int], more: list[int]) -> None:
    index = NgramIndex(text)
    index.extend()
    text += more
    index.extend()
    assert index.match(text, keys(text)) == find(text, text)


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), min_size=1))
def test_the_suffix_of_another_text(text: list[int], suffix: list[int]) -> None:
    index = NgramIndex(text)
    index.extend()
    found = index.match(suffix, keys(suffix))
    assert found == find(text, suffix)
    if found:
        assert index.match(suffix, keys(suffix), found.length) == found
        assert index.match(suffix, keys(suffix), found.length + 1) is None


def test_a_long_text_is_indexed_in_parts() -> None:
    chance = random.Random(0)
    text = [chance.randrange(10**6) for _ in range(3 * MAX_NEW_TOKENS)]
    text += text[-MAX_NEW_TOKENS - 40 : -MAX_NEW_TOKENS]
    index = NgramIndex(text)
    index.extend()
    assert index.match(text, keys(text)) is None
    for _ in range(3):
        index.extend()
    found = index.match(text, keys(text))
    assert found == Match(MAX_LENGTH, 2 * MAX_NEW_TOKENS, NOWHERE)
