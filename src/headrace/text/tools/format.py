"""What there is to know about one way of writing tool calls."""

from collections.abc import Callable
from dataclasses import dataclass

from headrace.text.tools.calls import Calls, new_call_id
from headrace.text.tools.reading import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """`read` understands calls leniently; the other fields say how to write them strictly:
    marker, opening, call, (separator, call)*, closing, where a call is head(name), arguments,
    tail."""

    name: str
    marker: str
    """Announces a call anywhere in a reply."""
    read: Callable[[Calls], Reader]
    """Reads what follows the marker, up to the end of the calls it announces."""
    head: Callable[[str], str]
    tail: str = ""
    opening: str = ""
    separator: str
    closing: str = ""
    is_bare: bool = False
    """True: a reply may also begin with a call, without the marker."""
    special: tuple[str, ...] = ()
    """Texts within the above that may be tokens of their own, beside the marker."""
    new_id: Callable[[], str] = new_call_id
    """Makes an id that the chat template accepts when it comes back."""
    accept_id: Callable[[str], str] = str
    """The id to show to the chat template for one that a client sent."""
