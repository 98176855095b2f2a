"""`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, one block per call: Hermes, Qwen.

Format: the chat templates of Hermes 2 Pro and Qwen 2.5.
"""

from headrace.text.tools.calls import Calls
from headrace.text.tools.format import ToolFormat
from headrace.text.tools.reading import Reader, expect, read_call, skip_space

START, END = "<tool_call>", "</tool_call>"


def read(calls: Calls) -> Reader:
    """One block."""
    yield from read_call(calls, (yield from skip_space()))
    yield from expect(END, (yield from skip_space()))


HERMES = ToolFormat(
    name="hermes",
    marker=START,
    read=read,
    opening="\n",
    head=lambda name: f'{{"name": "{name}", "arguments": ',
    tail="}",
    separator=f"\n{END}\n{START}\n",
    closing=f"\n{END}",
    special=(END,),
)
