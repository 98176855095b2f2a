"""The one normal form of a model's configuration, whatever file it comes from.

Knows the spellings of Hugging Face's config.json over the years, and nothing of GGUF.

Normal form: config.json's names, with `num_key_value_heads`, `head_dim`, `rope_theta`,
`rope_scaling` (None, or a dict with `rope_type`), `tie_word_embeddings` and `dtype` (None when the
checkpoint does not say) always present; `rope_parameters` and `torch_dtype` never.
"""

from typing import Any

from headrace.errors import CheckpointError

REQUIRED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)
DEFAULT_ROPE_THETA = 10_000.0


def normalize(config: dict[str, Any], source: str, has_output_head: bool) -> dict[str, Any]:
    """Bring a config.json to the normal form.

    `has_output_head`: the weights contain an output head of their own; it decides about
    `tie_word_embeddings` where the config is silent, since that default differs between models.
    Raises CheckpointError naming `source` and the field.
    """
    config = dict(config)
    for name in REQUIRED:
        _check_count(config, name, source)
    if not config.get("num_key_value_heads"):
        config["num_key_value_heads"] = config["num_attention_heads"]
    _check_count(config, "num_key_value_heads", source)
    if not config.get("head_dim"):
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    _check_count(config, "head_dim", source)
    config.setdefault("tie_word_embeddings", not has_output_head)
    config["dtype"] = config.pop("torch_dtype", None) or config.get("dtype")
    theta, scaling = _rope(config, source)
    config["rope_theta"], config["rope_scaling"] = theta, scaling
    return config


def _check_count(config: dict[str, Any], name: str, source: str) -> None:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise CheckpointError(f"{source}: {name} must be a positive integer, found {value!r}")


def _rope(config: dict[str, Any], source: str) -> tuple[float, dict[str, Any] | None]:
    """Base and scaling from `rope_parameters` (transformers 5) or the two older fields."""
    parameters = config.pop("rope_parameters", None)
    if parameters is None:
        parameters = config.get("rope_scaling") or {}
    if not isinstance(parameters, dict):
        raise CheckpointError(f"{source}: rope_scaling must be an object, found {parameters!r}")
    if any(isinstance(value, dict) for value in parameters.values()):
        raise CheckpointError(
            f"{source}: rotary embeddings that differ between layers are not supported"
        )
    scaling = dict(parameters)
    theta = scaling.pop("rope_theta", None) or config.get("rope_theta") or DEFAULT_ROPE_THETA
    kind = scaling.pop("type", None)
    kind = scaling.setdefault("rope_type", kind or "default")
    return float(theta), None if kind == "default" else scaling
