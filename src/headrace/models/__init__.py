"""`ARCHITECTURES`: a model is one family file and one line here."""

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from headrace.errors import StartupError
from headrace.models.spec import DecoderSpec

ARCHITECTURES = {
    "BloomForCausalLM": "headrace.models.bloom:spec",
    "Cohere2ForCausalLM": "headrace.models.cohere2:spec",
    "CohereForCausalLM": "headrace.models.cohere:spec",
    "DeepseekV2ForCausalLM": "headrace.models.deepseek_v2:spec",
    "DeepseekV3ForCausalLM": "headrace.models.deepseek_v3:spec",
    "FalconForCausalLM": "headrace.models.falcon:spec",
    "GPT2LMHeadModel": "headrace.models.gpt2:spec",
    "GPTBigCodeForCausalLM": "headrace.models.gpt_bigcode:spec",
    "GPTJForCausalLM": "headrace.models.gptj:spec",
    "GPTNeoXForCausalLM": "headrace.models.gpt_neox:spec",
    "Gemma2ForCausalLM": "headrace.models.gemma2:spec",
    "Gemma3ForCausalLM": "headrace.models.gemma3:spec",
    "GemmaForCausalLM": "headrace.models.gemma:spec",
    "Glm4ForCausalLM": "headrace.models.glm4:spec",
    "GptOssForCausalLM": "headrace.models.gpt_oss:spec",
    "GraniteForCausalLM": "headrace.models.granite:spec",
    "GraniteMoeForCausalLM": "headrace.models.granite_moe:spec",
    "GraniteMoeSharedForCausalLM": "headrace.models.granite_moe:spec",
    "Llama4ForCausalLM": "headrace.models.llama4:spec",
    "LlamaForCausalLM": "headrace.models.llama:spec",
    "MistralForCausalLM": "headrace.models.mistral:spec",
    "MixtralForCausalLM": "headrace.models.mixtral:spec",
    "MptForCausalLM": "headrace.models.mpt:spec",
    "OPTForCausalLM": "headrace.models.opt:spec",
    "Olmo2ForCausalLM": "headrace.models.olmo2:spec",
    "OlmoForCausalLM": "headrace.models.olmo:spec",
    "OlmoeForCausalLM": "headrace.models.olmoe:spec",
    "Phi3ForCausalLM": "headrace.models.phi3:spec",
    "PhiForCausalLM": "headrace.models.phi:spec",
    "Qwen2ForCausalLM": "headrace.models.qwen2:spec",
    "Qwen2MoeForCausalLM": "headrace.models.qwen2_moe:spec",
    "Qwen3ForCausalLM": "headrace.models.qwen3:spec",
    "Qwen3MoeForCausalLM": "headrace.models.qwen3_moe:spec",
    "Qwen3VLMoeForConditionalGeneration": "headrace.models.qwen3_vl_moe:spec",
    "SeedOssForCausalLM": "headrace.models.seed_oss:spec",
    "SmolLM3ForCausalLM": "headrace.models.smollm3:spec",
    "StableLmForCausalLM": "headrace.models.stablelm:spec",
    "Starcoder2ForCausalLM": "headrace.models.starcoder2:spec",
}
"""`architectures` of config.json to the function that turns the config into a spec."""

FORMER_NAMES = {"MPTForCausalLM": "MptForCausalLM"}
"""Of architectures that were on the hub before they were in transformers."""


ENTRY_POINTS = "headrace.architectures"
"""The group in which installed packages name theirs: to such a function, or to a subclass of
transformers' `PreTrainedModel`."""


def find_architecture(config: dict[str, Any]) -> Any | None:
    """The function or class that serves a checkpoint's config; None: nobody names one.

    Raises StartupError for an entry point that cannot be loaded.
    """
    named = config.get("architectures") or []
    for name in named:
        architecture = FORMER_NAMES.get(name, name)
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
