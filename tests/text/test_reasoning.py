import pytest

from headrace.text.reasoning import ReasoningMarkers, detect_reasoning, is_opened

THINK = ReasoningMarkers("<think>", "</think>")


@pytest.mark.parametrize(
    ("prompt", "prefill", "expected"),
    [
        ("<user>hi<assistant>", None, False),
        ("<user>hi<assistant><think>\n", None, True),
        ("<user>hi<assistant><think>\n\n</think>\n\n", None, False),
        ("<user>what is <think>?<assistant>", None, False),
        ("<user><think><assistant>Well", "Well", False),
        ("<user>hi<assistant><think>Hm", "<think>Hm", True),
        ("<user>hi<assistant><think>Hm</think>So", "<think>Hm</think>So", False),
    ],
)
def test_who_opens_reasoning(prompt: str, prefill: str | None, expected: bool) -> None:
    assert is_opened(prompt, THINK, prefill) == expected


def test_markers_in_templates() -> None:
    assert detect_reasoning("{{ messages }}") is None
    assert detect_reasoning("{{ m.content.split('</think>')[-1] }}") == THINK
    assert detect_reasoning("[THINK]{{ m }}[/THINK]") == ReasoningMarkers("[THINK]", "[/THINK]")
