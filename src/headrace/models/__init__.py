"""`ARCHITECTURES`: a model is one family file and one line here."""

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from headrace.errors import StartupError
from headrace.models.spec import DecoderSpec

ARCHITECTURES = {
    "LlamaForCausalLM": "headrace.models.llama:spec",
    "MistralForCausalLM": "headrace.models.mistral:spec",
    "Qwen2ForCausalLM": "headrace.models.qwen2:spec",
    "Qwen3ForCausalLM": "headrace.models.qwen3:spec",
}
"""`architectures` of config.json to the function that turns the config into a spec."""


ENTRY_POINTS = "headrace.architectures"
"""The group in which installed packages name theirs: to such a function, or to a subclass of
transformers' `PreTrainedModel`."""


def find_architecture(config: dict[str, Any]) -> Any | None:
    """The function or class that serves a checkpoint's config; None: nobody names one.

    Raises StartupError for an entry point that cannot be loaded.
    """
    named = config.get("architectures") or []
    for architecture in named:
        if architecture in ARCHITECTURES:
            module, function = ARCHITECTURES[architecture].split(":")
            return getattr(import_module(module), function)
    for entry_point in entry_points(group=ENTRY_POINTS):
        if entry_point.name in named:
            return _load(entry_point)
    return None


def _load(entry_point: EntryPoint) -> Any:
    try:
        return entry_point.load()
    except (ImportError, AttributeError) as error:
        raise StartupError(
            f"entry point {entry_point.name} = {entry_point.value} of group {ENTRY_POINTS}: {error}"
        ) from error


def spec_of(config: dict[str, Any]) -> DecoderSpec:
    """The spec of a checkpoint's config. Raises StartupError for an architecture without one."""
    function = find_architecture(config)
    if function is None or isinstance(function, type):
        raise StartupError(
            f"config.json: architectures is {config.get('architectures')}; "
            f"supported are {', '.join(ARCHITECTURES)}"
        )
    spec: DecoderSpec = function(config)
    return spec
