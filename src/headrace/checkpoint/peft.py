"""What an adapter folder of the `peft` library says: which base, which rank, which scale.

Knows adapter_config.json of LoRA; the tensors are `weights.lora`'s.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.checkpoint.safetensors import read_json
from headrace.checkpoint.tensor_names import tensor_names
from headrace.errors import CheckpointError

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

UNSUPPORTED = ("use_dora", "use_qalora", "lora_bias", "layer_replication", "target_parameters",
               "trainable_token_indices", "alora_invocation_tokens")  # fmt: skip
"""Fields that change the arithmetic, or what the tensors are; they must be empty or false."""

CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initializations that also change the base's weights, so that the adapter fits no other ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraAdapter:
    """A LoRA adapter as it lies on disk."""

    folder: Path
    weights: Path
    base: str
    """Hub id or path of the model that it changes."""
    config: dict[str, Any]

    @property
    def is_transposed(self) -> bool:
        """The base keeps its linear layers as [in_features, out_features] (GPT-2's Conv1D)."""
        return bool(self.config.get("fan_in_fan_out"))

    def scale(self, module: str) -> float:
        """What B A is multiplied with: alpha / r, or alpha / sqrt(r) for rank-stabilized LoRA."""
        rank = self._pattern("rank_pattern", module, self.config["r"])
        alpha = self._pattern("alpha_pattern", module, self.config["lora_alpha"])
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def replaces(self, names: set[str]) -> bool:
        """Whether it has one of these tensors whole."""
        return any(name.endswith(tuple(names)) for name in tensor_names((self.weights,)))

    def _pattern(self, name: str, module: str, default: float) -> float:
        """The first key that is, as a regular expression, the end of the module's name."""
        for key, value in (self.config.get(name) or {}).items():
            if re.fullmatch(rf"(.*\.)?({key})", module):
                return float(value)
        return float(default)


def is_adapter(folder: Path) -> bool:
    """Whether a folder has an adapter's configuration."""
    return (folder / CONFIG).exists()


def base_model(folder: Path) -> str:
    """Hub id or path of the model that an adapter changes. Raises CheckpointError."""
    base = read_json(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{folder / CONFIG}: base_model_name_or_path must name the base model, found {base!r}"
        )
    return base


def open_adapter(folder: Path) -> LoraAdapter:
    """Raises CheckpointError for anything but a LoRA adapter with weights."""
    source = folder / CONFIG
    config = read_json(source)
    _check_kind(config, source)
    for name in ("r", "lora_alpha"):
        _check_positive(config.get(name), name, source)
    for name in ("rank_pattern", "alpha_pattern"):
        _check_pattern(config.get(name) or {}, name, source)
    weights = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if weights is None:
        raise CheckpointError(f"{folder}: has {CONFIG}, but neither of {', '.join(WEIGHTS)}")
    return LoraAdapter(folder=folder, weights=weights, base=base_model(folder), config=config)


def _check_kind(config: dict[str, Any], source: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{source}: peft_type {config.get('peft_type')!r} is not supported, only LORA"
        )
    if used := [name for name in UNSUPPORTED if config.get(name)]:
        raise CheckpointError(f"{source}: {', '.join(used)} is not supported")
    if str(config.get("init_lora_weights")).startswith(CHANGES_BASE):
        raise CheckpointError(
            f"{source}: init_lora_weights {config['init_lora_weights']!r} changes the base model "
            "too; convert the adapter to plain LoRA when saving it"
        )


def _check_positive(value: Any, name: str, source: Path) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise CheckpointError(f"{source}: {name} must be a positive number, found {value!r}")


def _check_pattern(value: Any, name: str, source: Path) -> None:
    if not isinstance(value, dict):
        raise CheckpointError(f"{source}: {name} must be an object, found {value!r}")
    for key, number in value.items():
        _check_positive(number, f"{name}[{key!r}]", source)
        try:
            re.compile(key)
        except re.error as error:
            raise CheckpointError(f"{source}: {name}[{key!r}] is no pattern: {error}") from None
