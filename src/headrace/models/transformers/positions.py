"""How far a transformers model counts: the longest context, and the flags that stretch it."""

from typing import Any

from headrace.errors import StartupError

LIMITS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
"""Where configs say it; transformers' own classes map theirs to the first."""


def longest_context(config: Any) -> int:
    """In tokens. Raises StartupError when the config does not say.

    "longrope" turns to other angles when any sequence of the batch grows past its original
    length. Requests must not depend on their neighbours, so they end there.
    """
    limits = [int(value) for name in LIMITS if (value := getattr(config, name, None))]
    if not limits:
        raise StartupError(f"config.json has no {' or '.join(LIMITS)}")
    rope = _rope(config)
    if rope.get("rope_type") == "longrope" and "original_max_position_embeddings" in rope:
        limits.append(int(rope["original_max_position_embeddings"]))
    stretch = rope["factor"] if rope.get("rope_type") == "linear" else 1
    return int(min(limits) * stretch)


def override_rope(config: Any, scaling: dict[str, Any]) -> None:
    """Put --rope-scaling and --rope-factor in place of the model's own scaling.

    Raises StartupError where they cannot have their effect.
    """
    rope = _rope(config)
    if not rope or scaling["rope_type"] == "dynamic":
        raise StartupError(
            f"--rope-scaling {scaling['rope_type']}: models that run on transformers' code take "
            "linear only, and only if they have one rotary embedding for all layers"
        )
    config.rope_parameters = {"rope_theta": rope["rope_theta"], **scaling}


def _rope(config: Any) -> dict[str, Any]:
    """Empty where there is none, or several."""
    rope = getattr(config, "rope_parameters", None) or {}
    return {} if any(isinstance(value, dict) for value in rope.values()) else rope
