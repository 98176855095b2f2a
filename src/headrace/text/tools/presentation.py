"""Show a model its tools and its earlier calls, in the way its chat template understands.

A template that knows tools gets them as they are. For any other they are put into words: tools
into the system message, calls and results into messages of the assistant and the user.
"""

import json
from collections.abc import Sequence
from typing import Any

from headrace.text.chat_format import ChatFormat
from headrace.text.tools.hermes import END, START
from headrace.text.tools.toolset import ToolSet

Message = dict[str, Any]

INTRODUCTION = f"""\
These functions can be called, each described by one line of JSON:
{{definitions}}

To call one, reply with its name and its arguments, exactly in this form:
{START}
{{{{"name": "<name>", "arguments": {{{{<arguments>}}}}}}}}
{END}
For several calls write several such blocks. The results follow in the next message. When no \
function is of use, reply as usual."""


def present_tools(
    chat_format: ChatFormat,
    messages: Sequence[Message],
    tool_set: ToolSet | None,
    tool_prompt: str | None,
) -> tuple[list[Message], list[Any] | None]:
    """Messages and tools to render.

    `tool_prompt` goes behind the last message, as in TGI. Arguments of earlier calls are dicts.
    """
    shown = [_with_accepted_ids(message, chat_format) for message in messages]
    tools = None if tool_set is None else tool_set.definitions
    if not chat_format.renders_tools:
        shown = _in_words(shown)
        if tools is not None:
            shown = _introduced(shown, tools)
    if tool_prompt is not None and shown:
        shown = [*shown[:-1], _extended(shown[-1], f"\n---\n{tool_prompt}")]
    return shown, tools if chat_format.renders_tools else None


def _with_accepted_ids(message: Message, chat_format: ChatFormat) -> Message:
    accept = chat_format.tools.accept_id
    if "tool_call_id" in message:
        return message | {"tool_call_id": accept(message["tool_call_id"])}
    if "tool_calls" in message:
        calls = [call | {"id": accept(call["id"])} for call in message["tool_calls"]]
        return message | {"tool_calls": calls}
    return message


def _extended(message: Message, text: str) -> Message:
    return message | {"content": message["content"] + text}


def _introduced(messages: list[Message], tools: list[Any]) -> list[Message]:
    """The tools in the system message, behind what it says already."""
    definitions = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = INTRODUCTION.format(definitions=definitions)
    if messages and messages[0]["role"] == "system":
        return [_extended(messages[0], f"\n\n{text}"), *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _in_words(messages: list[Message]) -> list[Message]:
    """Calls and results as text; results that follow each other become one message."""
    shown: list[Message] = []
    for message in messages:
        if message["role"] != "tool":
            shown.append(_calls_in_words(message))
            continue
        result = f"<tool_response>\n{message['content']}\n</tool_response>"
        if shown and shown[-1].get("is_result"):
            shown[-1] = _extended(shown[-1], f"\n{result}")
        else:
            shown.append({"role": "user", "content": result, "is_result": True})
    return [{k: v for k, v in message.items() if k != "is_result"} for message in shown]


def _calls_in_words(message: Message) -> Message:
    blocks = [message["content"]] if message["content"] else []
    for call in message.get("tool_calls", ()):
        function = {key: call["function"][key] for key in ("name", "arguments")}
        blocks.append(f"{START}\n{json.dumps(function, ensure_ascii=False)}\n{END}")
    others = {key: value for key, value in message.items() if key != "tool_calls"}
    return others | {"content": "\n".join(blocks)}
