"""`ARCHITECTURES`: a model is one family file and one line here."""

from importlib import import_module
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


def spec_of(config: dict[str, Any]) -> DecoderSpec:
    """The spec of a checkpoint's config. Raises StartupError for an unknown architecture."""
    named = config.get("architectures") or []
    for architecture in named:
        if architecture in ARCHITECTURES:
            module, function = ARCHITECTURES[architecture].split(":")
            return getattr(import_module(module), function)(config)
    raise StartupError(
        f"config.json: architectures is {named}; supported are {', '.join(ARCHITECTURES)}"
    )
