"""`[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]`, and newer `[TOOL_CALLS]name[ARGS]{…}`.

Both are read wherever one may come. Format: mistral-common's tokenizers, v3 and v11.
"""

import hashlib
import re
import secrets

from headrace.text.tools.calls import Calls, NotACall
from headrace.text.tools.format import ToolFormat
from headrace.text.tools.reading import Reader, read_arguments, read_call, skip_space

MARKER, ARGUMENTS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
MAX_NAME = 128


def read(calls: Calls) -> Reader:
    """A list of calls, or one call."""
    character = yield from skip_space()
    if character == "[":
        yield from _read_list(calls)
    else:
        yield from _read_one(calls, character)


def _read_list(calls: Calls) -> Reader:
    while True:
        yield from read_call(calls, (yield from skip_space()))
        character = yield from skip_space()
        if character == "]":
            return
        if character != ",":
            raise NotACall


def _read_one(calls: Calls, first: str) -> Reader:
    """A name, perhaps an id that is not passed on, and the arguments."""
    head = first
    while not head.endswith((ARGUMENTS, "{")):
        if len(head) > MAX_NAME:
            raise NotACall
        head += yield
    name = head.removesuffix("{").removesuffix(ARGUMENTS).partition(CALL_ID)[0].strip()
    brace = "{" if head.endswith("{") else (yield from skip_space())
    yield from read_arguments(calls, name, brace)


def new_id() -> str:
    """Mistral's templates refuse ids that are not nine letters or digits."""
    return accept_id(secrets.token_hex(16))


def accept_id(id: str) -> str:
    """The id itself if it is of that kind, else nine digits that always stand for it."""
    if re.fullmatch("[a-zA-Z0-9]{9}", id):
        return id
    return hashlib.sha256(id.encode(errors="replace")).hexdigest()[:9]


MISTRAL = ToolFormat(
    name="mistral",
    marker=MARKER,
    read=read,
    opening=" [",
    head=lambda name: f'{{"name": "{name}", "arguments": ',
    tail="}",
    separator=", ",
    closing="]",
    new_id=new_id,
    accept_id=accept_id,
)
MISTRAL_ARGUMENTS = ToolFormat(
    name="mistral_arguments",
    marker=MARKER,
    read=read,
    head=lambda name: f"{name}{ARGUMENTS}",
    separator=MARKER,
    special=(ARGUMENTS, CALL_ID),
    new_id=new_id,
    accept_id=accept_id,
)
