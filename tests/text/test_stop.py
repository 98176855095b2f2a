"""Oracle: str.find over the whole text."""

from hypothesis import example, given
from hypothesis import strategies as st

from headrace.text.stop import StopMatcher

ALPHABET = "ab\n"
texts = st.text(ALPHABET, max_size=40)
stop_sets = st.lists(st.text(ALPHABET, min_size=1, max_size=6), max_size=4).map(tuple)


def expected(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """Text before the stop string that is completed first (the longer of two), and that string."""
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, None
    start, stop = min(found, key=lambda match: (match[0] + len(match[1]), match[0]))
    return text[:start], stop


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[a:b] for a, b in zip(places, places[1:], strict=False)]


@given(text=texts, stops=stop_sets, cuts=st.lists(st.integers(0, 40)))
@example(text="aabaab", stops=("aabaaa", "abaab"), cuts=[3])
@example(text="abab", stops=("b", "ab"), cuts=[1])
def test_any_cut_finds_what_find_finds(text: str, stops: tuple[str, ...], cuts: list[int]) -> None:
    matcher = StopMatcher(stops)
    released = ""
    for piece in pieces(text, cuts):
        released += matcher.feed(piece)
        assert text.startswith(released)
        if matcher.match is not None:
            break
    assert (released + matcher.flush(), matcher.match) == expected(text, stops)


@given(text=texts, stops=stop_sets)
def test_only_possible_beginnings_are_held_back(text: str, stops: tuple[str, ...]) -> None:
    matcher = StopMatcher(stops)
    held = text.removeprefix(matcher.feed(text))
    if matcher.match is None:
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_text_flows_while_nothing_can_match() -> None:
    matcher = StopMatcher(("STOP",))
    assert matcher.feed("go ") == "go "
    assert matcher.feed("S") == ""
    assert matcher.feed("T") == ""
    assert matcher.feed("ILL") == "STILL"
    assert matcher.feed("STOP!") == ""
    assert matcher.match == "STOP"
    assert matcher.flush() == ""
