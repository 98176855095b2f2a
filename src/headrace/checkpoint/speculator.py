"""Checkpoints that only draft for another model: Medusa heads and IBM's MLP speculators.

Knows their config.json, which names the model they were trained for; reads no weights.
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec

from headrace.checkpoint.safetensors import read_json
from headrace.errors import CheckpointError

Positive = Annotated[int, msgspec.Meta(gt=0)]
HeadCount = Annotated[int, msgspec.Meta(gt=0, le=64)]


class MedusaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Heads on the last hidden state (Cai et al. 2024), one for each drafted token."""

    medusa_num_heads: HeadCount
    medusa_num_layers: HeadCount = 1
    """Residual blocks per head."""
    base_model_name_or_path: str | None = None


class MLPSpeculatorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A chain of small layers that read each drafted token (Wertheimer et al. 2024)."""

    n_predict: HeadCount
    inner_dim: Annotated[int, msgspec.Meta(ge=0)] = 0
    """0: emb_dim."""
    emb_dim: Positive
    """Size of the model's hidden states."""
    vocab_size: Positive
    tie_weights: bool = False
    """All tokens behind the first share their layers."""
    scale_input: bool = False
    base_model_name_or_path: str | None = None


SpeculatorConfig = MedusaConfig | MLPSpeculatorConfig


def read_speculator(path: Path) -> SpeculatorConfig | None:
    """What a folder drafts with; None for anything but heads (a whole model, an adapter).

    Raises CheckpointError naming the field that is missing or wrong, and for EAGLE heads.
    """
    source = path / "config.json"
    if not source.exists():
        return None
    config = read_json(source)
    kind = _kind(config, source)
    if kind is None:
        return None
    try:
        return msgspec.convert(config, kind)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{source}: {error}") from None


def _kind(config: dict[str, Any], source: Path) -> type[SpeculatorConfig] | None:
    names = f"{config.get('architectures')} {config.get('model_type')}".lower()
    if "eagle" in names:
        raise CheckpointError(
            f"{source}: EAGLE heads are not supported; give a draft model, Medusa heads or an "
            "MLP speculator"
        )
    if "mlp_speculator" in names or "mlpspeculator" in names:
        return MLPSpeculatorConfig
    return MedusaConfig if "medusa_num_heads" in config else None
