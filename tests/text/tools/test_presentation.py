"""Oracle: transformers' rendering of the same messages, where the template knows tools."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from headrace.text.chat import ChatTemplate
from headrace.text.chat_format import detect_chat_format
from headrace.text.tools.presentation import present_tools
from headrace.text.tools.toolset import Tool, ToolSet
from tests.text.families import CHATML, LLAMA3, MISTRAL, QWEN

DEFINITIONS = [
    {"type": "function", "function": {"name": name, "description": "é <b>", "parameters": {}}}
    for name in ("f", "g")
]
TOOLS = [Tool(name=d["function"]["name"], definition=d) for d in DEFINITIONS]  # type: ignore[index]
TOOL_SET = ToolSet(tools=TOOLS, callable=TOOLS)
USER = {"role": "user", "content": "Hi"}


def call(name: str, id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": {"a": "é"}}}


HISTORY = [
    USER,
    {"role": "assistant", "content": "", "tool_calls": [call("f", "abcdefgh1")]},
    {"role": "tool", "content": "1", "tool_call_id": "abcdefgh1"},
]


def prompt(source: str, messages: Sequence[dict[str, Any]], tool_prompt: str | None = None) -> str:
    template = ChatTemplate({"default": source}, "<s>", "</s>")
    try:
        found = detect_chat_format({"default": source}, lambda text: None)
        shown, tools = present_tools(found, list(messages), TOOL_SET, tool_prompt)
        return template.render(shown, tools)
    finally:
        template.close()


@pytest.mark.parametrize("source", [QWEN, LLAMA3, MISTRAL], ids=["qwen", "llama3", "mistral"])
def test_templates_that_know_tools_get_them_unchanged(source: str) -> None:
    (expected,), _ = render_jinja_template(
        [HISTORY], tools=DEFINITIONS, chat_template=source, add_generation_prompt=True,
        bos_token="<s>", eos_token="</s>",
    )  # fmt: skip
    assert prompt(source, HISTORY) == expected
    assert '"a": "é"' in expected


def test_ids_that_mistral_refuses_are_replaced() -> None:
    messages = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call("f", "call_123")]},
        {"role": "tool", "content": "1", "tool_call_id": "call_123"},
    ]
    text = prompt(MISTRAL, messages)
    id = text.partition('"id": "')[2][:9]
    assert f'"call_id": "{id}"' in text and id.isalnum()
    assert messages[2]["tool_call_id"] == "call_123"


def test_other_templates_get_tools_in_words() -> None:
    text = prompt(CHATML, [{"role": "system", "content": "Be kind."}, USER])
    assert text.startswith("<|im_start|>system\nBe kind.\n\n")
    for definition in DEFINITIONS:
        assert f"\n{json.dumps(definition, ensure_ascii=False)}\n" in text
    assert "<tool_call>\n{" in text
    assert prompt(CHATML, [USER]).startswith("<|im_start|>system\n")


def test_other_templates_get_calls_and_results_in_words() -> None:
    results = [{"role": "tool", "content": str(i), "tool_call_id": f"call_{i}"} for i in range(2)]
    calls = [call("f", "call_0"), call("g", "call_1")]
    messages = [{"role": "assistant", "content": "Well.", "tool_calls": calls}, *results]
    assert prompt(CHATML, messages).endswith(
        "<|im_start|>assistant\nWell.\n"
        '<tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {"a": "é"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n0\n</tool_response>\n"
        "<tool_response>\n1\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("source", [CHATML, QWEN])
def test_tool_prompt_is_added_to_the_last_message(source: str) -> None:
    assert "Hi\n---\nChoose one.<|im_end|>" in prompt(source, [USER], "Choose one.")
