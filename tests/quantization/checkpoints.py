"""Tiny checkpoints with quantized layers, and the float model that they stand for."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.models.checkpoints import make_checkpoint
from tests.quantization.formats import Format

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}


def write_quantized(
    folder: Path, form: Format, architecture: str = "LlamaForCausalLM", **changes: Any
) -> Any:
    """Save a tiny model in this format; returns transformers' model of the same numbers."""
    model = make_checkpoint(folder, architecture, SIZES | changes)
    tensors = load_file(folder / "model.safetensors")
    for name, module in model.named_modules():
        is_linear = isinstance(module, torch.nn.Linear) and "layers" in name
        if not is_linear or name.split(".")[-1] in form.skipped:
            continue
        stored, exact = form.write(module.weight.detach())
        module.weight.data.copy_(exact)
        del tensors[f"{name}.weight"]
        tensors |= {f"{name}.{suffix}": tensor.clone() for suffix, tensor in stored.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if form.files:
        for name, content in form.files.items():
            (folder / name).write_text(json.dumps(content))
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps(config | {"quantization_config": form.config})
        )
    return model
