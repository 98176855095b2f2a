"""The one normal form of a model's configuration, whatever file it comes from.

Knows the spellings of Hugging Face's config.json over the years, and nothing of GGUF.

Normal form: Llama's names, with `intermediate_size`, `num_key_value_heads`, `head_dim`,
`rope_theta`, `rope_scaling` (None, or a dict with `rope_type`), `tie_word_embeddings` and `dtype`
(None when the checkpoint does not say) always present; `rope_parameters` and `torch_dtype` never.
Where layers with a window rotate otherwise, `rope_local_base_freq` is their base.
Only `dtype` is normal in a config that lacks REQUIRED: native families name what they miss.
"""

from typing import Any

from headrace.errors import CheckpointError

ALIASES = {
    "hidden_size": ("n_embd", "n_embed", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads",),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "seq_length"),
    "hidden_act": ("hidden_activation", "activation_function", "activation"),
    "layer_norm_eps": ("layer_norm_epsilon", "norm_epsilon"),
    "partial_rotary_factor": ("rotary_pct", "rope_pct"),
    "rope_theta": ("rotary_emb_base",),
    "num_experts": ("num_local_experts", "n_routed_experts"),
}
"""Normal name to older families' names; tried in order where the normal one is missing."""
REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
DEFAULT_ROPE_THETA = 10_000.0
ROPE_TYPE_NAMES = {"su": "longrope", "mrope": "default"}
"""Older names of rotary embeddings; and Qwen-VL's turns text by its positions as others do."""
MULTIMODAL_ROPE = ("mrope_section", "mrope_interleaved")
FULL, SLIDING = "full_attention", "sliding_attention"


def normalize(config: dict[str, Any], source: str, has_output_head: bool) -> dict[str, Any]:
    """Bring a config.json to the normal form.

    `has_output_head`: the weights contain an output head of their own; it decides about
    `tie_word_embeddings` where the config is silent, since that default differs between models.
    Raises CheckpointError naming `source` and the field.
    """
    config = dict(config)
    for name, aliases in ALIASES.items():
        found = (config[alias] for alias in (name, *aliases) if config.get(alias) is not None)
        if (value := next(found, None)) is not None:
            config[name] = value
    config["dtype"] = config.pop("torch_dtype", None) or config.get("dtype")
    if any(config.get(name) is None for name in REQUIRED):
        return config  # in names that only the model's own code knows
    for name in REQUIRED:
        _check_count(config, name, source)
    _fill_in(config, "num_key_value_heads", config["num_attention_heads"], source)
    _fill_in(config, "head_dim", config["hidden_size"] // config["num_attention_heads"], source)
    _fill_in(config, "intermediate_size", 4 * config["hidden_size"], source)
    config.setdefault("tie_word_embeddings", not has_output_head)
    _normalize_rope(config, source)
    return config


def _fill_in(config: dict[str, Any], name: str, default: int, source: str) -> None:
    if not config.get(name):
        config[name] = default
    _check_count(config, name, source)


def _check_count(config: dict[str, Any], name: str, source: str) -> None:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise CheckpointError(f"{source}: {name} must be a positive integer, found {value!r}")


def _normalize_rope(config: dict[str, Any], source: str) -> None:
    """Bases and scaling from `rope_parameters` (transformers 5) or the older fields."""
    parameters = config.pop("rope_parameters", None)
    if parameters is None:
        parameters = config.get("rope_scaling") or {}
    if not isinstance(parameters, dict):
        raise CheckpointError(f"{source}: rope_scaling must be an object, found {parameters!r}")
    if any(isinstance(value, dict) for value in parameters.values()):
        parameters = _of_full_layers(config, parameters, source)
    scaling = dict(parameters)
    theta = scaling.pop("rope_theta", None) or config.get("rope_theta") or DEFAULT_ROPE_THETA
    if (factor := scaling.pop("partial_rotary_factor", None)) is not None:
        config["partial_rotary_factor"] = factor
    for name in MULTIMODAL_ROPE:
        scaling.pop(name, None)
    older = scaling.pop("type", None)
    kind = scaling.get("rope_type") or older or "default"
    scaling["rope_type"] = kind = ROPE_TYPE_NAMES.get(kind, kind)
    config["rope_theta"] = float(theta)
    config["rope_scaling"] = None if kind == "default" else scaling


def _of_full_layers(
    config: dict[str, Any], parameters: dict[str, Any], source: str
) -> dict[str, Any]:
    """The parameters of the layers that see all; those of the others give their base only."""
    if set(parameters) != {FULL, SLIDING}:
        raise CheckpointError(
            f"{source}: rope_parameters are for {', '.join(map(repr, parameters))}; "
            f"those of layers must be for {FULL!r} and {SLIDING!r}"
        )
    local = parameters[SLIDING] or {}
    if local.get("rope_type", "default") != "default":
        raise CheckpointError(f"{source}: scaled rotary embeddings under a window")
    config["rope_local_base_freq"] = local.get("rope_theta") or DEFAULT_ROPE_THETA
    return parameters[FULL] or {}
