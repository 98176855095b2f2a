"""Replies of a model that calls tools and reasons."""

import re
from typing import Any

from headrace.text.chat_format import ChatFormat
from headrace.text.reasoning import ReasoningMarkers
from tests.api.fake_frontend import FakeFrontend

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ARGUMENTS = '{"city": "Malmö {\\"<tool_call>\\"}"}'
CALLS = (
    f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
)
THINK = ReasoningMarkers("<think>", "</think>")


def say(frontend: FakeFrontend, text: str, **chat_format: Any) -> None:
    """Reply with this text, in tokens of a word, a bracket or the like."""
    frontend.words = re.findall(r"\w+|\W", text)
    frontend.chat_format = ChatFormat(**({"renders_tools": True} | chat_format))
