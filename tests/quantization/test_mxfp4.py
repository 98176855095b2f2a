"""MXFP4 against transformers' own reader, and GPT-OSS with packed experts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from headrace.errors import CheckpointError
from headrace.quantization import Target
from headrace.quantization.mxfp4 import MXFP4, unpack
from tests.models.checkpoints import make_checkpoint
from tests.models.driver import drive


def random_experts(experts: int, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = torch.randint(256, (experts, rows, columns // 32, 16), dtype=torch.uint8)
    scales = torch.randint(120, 126, (experts, rows, columns // 32), dtype=torch.uint8)
    return blocks, scales


def test_unpacked_numbers_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    blocks, scales = random_experts(3, 5, 96)
    expected = convert_moe_packed_tensors(blocks, scales)
    for expert in range(3):
        assert torch.equal(unpack(blocks[expert], scales[expert]), expected[expert].t())


def test_packed_experts_give_the_logits_of_the_numbers_they_hold(tmp_path: Path) -> None:
    packed, plain = tmp_path / "packed", tmp_path / "plain"
    sizes = {"num_local_experts": 4, "intermediate_size": 64, "initializer_range": 0.05}
    for folder in (packed, plain):
        make_checkpoint(folder, "GptOssForCausalLM", sizes)
    torch.manual_seed(0)
    for folder in (packed, plain):
        torch.manual_seed(1)
        tensors = load_file(folder / "model.safetensors")
        for layer in range(3):
            prefix = f"model.layers.{layer}.mlp.experts"
            for name, rows, columns in (("gate_up_proj", 128, 64), ("down_proj", 64, 64)):
                blocks, scales = random_experts(4, rows, columns)
                numbers = convert_moe_packed_tensors(blocks, scales).float()
                del tensors[f"{prefix}.{name}"]
                if folder == plain:
                    tensors[f"{prefix}.{name}"] = numbers
                else:
                    tensors[f"{prefix}.{name}_blocks"] = blocks
                    tensors[f"{prefix}.{name}_scales"] = scales
        save_file(tensors, folder / "model.safetensors")
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (packed / "config.json").write_text(json.dumps(config))
    logits = []
    for folder in (packed, plain):
        driver = drive(folder)
        logits += driver.step([(driver.start(list(range(20))), 20)])
    assert torch.equal(*logits)


def test_scales_that_do_not_fit_are_named() -> None:
    class Stored(dict[str, torch.Tensor]):
        def has(self, name: str) -> bool:
            return name in self

        def raw(self, name: str) -> None:
            return None

        def get(self, name: str) -> torch.Tensor:  # type: ignore[override]
            return self[name]

    blocks, scales = random_experts(4, 8, 64)
    scheme = MXFP4({}, Target(dtype=torch.float32, device=torch.device("cpu")))
    weights = Stored({"up.blocks": blocks[0], "up.scales": scales[0, :, :1]})
    with pytest.raises(CheckpointError, match=r"up.blocks: \[8, 2, 16\] torch.uint8 does not fit"):
        scheme.read(weights, "up")
