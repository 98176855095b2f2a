"""Float checkpoints to quantize, and what a quantized one stands for by its format's formula."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from tests.models.checkpoints import make_checkpoint

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
LINEARS = [f"self_attn.{name}_proj" for name in "qkvo"] + [
    f"mlp.{name}_proj" for name in ("gate", "up", "down")
]


def make_floats(folder: Path, architecture: str = "LlamaForCausalLM", **changes: Any) -> Any:
    """Save a tiny model, and files that go with one; returns it."""
    model = make_checkpoint(folder, architecture, SIZES | changes)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return model


def fields(words: np.ndarray, bits: int) -> np.ndarray:
    """[n, k] int32 to [n, k * 32 / bits]: the numbers in each word, lowest bits first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    parts = (words.view(np.uint32)[..., None] >> shifts) & (2**bits - 1)
    return parts.reshape(len(words), -1).astype(np.int64)


def gptq_matrix(tensors: dict[str, Tensor], bits: int) -> Tensor:
    """(q - (z + 1)) * s, each input with the zero point and scale of its g_idx."""
    q = fields(tensors["qweight"].numpy().T.copy(), bits)
    z = fields(tensors["qzeros"].numpy(), bits).T + 1
    s = tensors["scales"].float().numpy().T
    index = tensors["g_idx"].numpy()
    return torch.from_numpy((q - z[:, index]) * s[:, index])


def packed_matrix(tensors: dict[str, Tensor], bits: int) -> Tensor:
    """(q - z) * s in groups of neighbours; the middle is the zero point if there is none."""
    q = fields(tensors["weight_packed"].numpy(), bits)
    s = tensors["weight_scale"].float().numpy()
    z = np.full(s.shape, 2 ** (bits - 1))
    if "weight_zero_point" in tensors:
        z = fields(tensors["weight_zero_point"].numpy().T.copy(), bits).T
    assert tensors["weight_shape"].tolist() == list(q.shape)
    spread = q.shape[1] // s.shape[1]
    return torch.from_numpy((q - z.repeat(spread, 1)) * s.repeat(spread, 1))


def restore(folder: Path, model: Any) -> int:
    """Put the folder's quantized matrices into transformers' float model; how many there were."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    stored, count = load_file(folder / "model.safetensors"), 0
    for name, module in model.named_modules():
        tensors = {
            key.removeprefix(f"{name}."): tensor
            for key, tensor in stored.items()
            if key.startswith(f"{name}.")
        }
        if "qweight" in tensors:
            matrix = gptq_matrix(tensors, config["bits"])
        elif "weight_packed" in tensors:
            bits = config["config_groups"]["group_0"]["weights"]["num_bits"]
            matrix = packed_matrix(tensors, bits)
        else:
            continue
        module.weight.data.copy_(matrix.T if isinstance(module, Conv1D) else matrix)
        count += 1
    return count
