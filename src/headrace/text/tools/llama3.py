"""`{"name": …, "parameters": {…}}` as the whole reply, or behind `<|python_tag|>`: Llama 3.

Several calls are separated by semicolons. Format: Llama 3.1's prompt format documentation.
"""

from headrace.text.tools.calls import Calls, NotACall
from headrace.text.tools.format import ToolFormat
from headrace.text.tools.reading import Reader, read_call, skip_space


def read(calls: Calls) -> Reader:
    """Calls up to the end of the reply."""
    character = yield from skip_space()
    while True:
        yield from read_call(calls, character)
        character = yield from skip_space()
        if character == ";":
            character = yield from skip_space()
        if character != "{":
            raise NotACall


LLAMA3 = ToolFormat(
    name="llama3",
    marker="<|python_tag|>",
    read=read,
    head=lambda name: f'{{"name": "{name}", "parameters": ',
    tail="}",
    separator="; ",
    is_bare=True,
)
