"""The formats by name, and which of them a chat template teaches."""

from headrace.text.tools.format import ToolFormat
from headrace.text.tools.hermes import HERMES
from headrace.text.tools.llama3 import LLAMA3
from headrace.text.tools.mistral import ARGUMENTS, MISTRAL, MISTRAL_ARGUMENTS

FORMATS: dict[str, ToolFormat] = {
    each.name: each for each in (HERMES, LLAMA3, MISTRAL, MISTRAL_ARGUMENTS)
}

_SIGNS = (
    (HERMES.marker, HERMES),
    (ARGUMENTS, MISTRAL_ARGUMENTS),
    (MISTRAL.marker, MISTRAL),
    (LLAMA3.marker, LLAMA3),
    ('"parameters": dictionary', LLAMA3),
    ("<|start_header_id|>", LLAMA3),
)
"""What tells a format in the source of a template, tried in this order."""


def detect(source: str) -> ToolFormat | None:
    """The format of a chat template; None when it shows none of these."""
    return next((each for sign, each in _SIGNS if sign in source), None)
