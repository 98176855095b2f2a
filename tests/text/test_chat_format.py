"""Templates in each family's style show their format; special tokens do not hide it."""

import pytest
import tokenizers

from headrace.text.chat_format import detect_chat_format
from headrace.text.tokenizer import Tokenizer
from tests.text.families import CHATML, DEEPSEEK, LLAMA3, MISTRAL, MISTRAL_ARGUMENTS, QWEN

FAMILIES = [
    (CHATML, "hermes", False, False),
    (QWEN, "hermes", True, True),
    (LLAMA3, "llama3", True, False),
    (MISTRAL, "mistral", True, False),
    (MISTRAL_ARGUMENTS, "mistral_arguments", True, False),
    (QWEN.replace("tool_call>", "invoke>"), "hermes", False, True),
    (DEEPSEEK, "hermes", False, True),
]


@pytest.mark.parametrize(("source", "tools", "renders_tools", "reasons"), FAMILIES)
def test_families(source: str, tools: str, renders_tools: bool, reasons: bool) -> None:
    found = detect_chat_format({"default": source}, lambda text: None)
    assert found.tools.name == tools
    assert found.renders_tools == renders_tools
    assert (found.reasoning is not None) == reasons
    assert found.token_ids == {}


def test_a_template_of_its_own_for_tools_counts() -> None:
    found = detect_chat_format({"default": CHATML, "tool_use": MISTRAL}, lambda text: None)
    assert (found.tools.name, found.renders_tools) == ("mistral", True)


def test_markers_that_are_tokens(byte_level_backend: tokenizers.Tokenizer) -> None:
    backend = tokenizers.Tokenizer.from_str(byte_level_backend.to_str())
    backend.add_special_tokens(["[TOOL_CALLS]", "<other>"])
    tokenizer = Tokenizer(backend)
    found = detect_chat_format({"default": MISTRAL}, tokenizer.token_id)
    marker = backend.token_to_id("[TOOL_CALLS]")
    assert found.token_ids == {"[TOOL_CALLS]": marker}
    text = "a[TOOL_CALLS] <other>b"
    ids = tokenizer.encode(text).ids
    shown = frozenset(found.token_ids.values())
    for hidden, expected in ((frozenset(), "a b"), (shown, "a[TOOL_CALLS] b")):
        detokenizer = tokenizer.detokenizer(True, hidden)
        assert "".join(map(detokenizer.feed, ids)) + detokenizer.flush() == expected
