"""MXFP4 against transformers' own reader, and GPT-OSS with packed experts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from headrace.errors import CheckpointError
from headrace.kernels import TorchKernels
from headrace.kernels import load as load_kernels
from headrace.quantization import LinearWeight, Target
from headrace.quantization.mxfp4 import MXFP4
from headrace.weights import Part
from tests.models.checkpoints import make_checkpoint
from tests.models.driver import drive

KERNELS = {"torch": None, "twins": TorchKernels("test"), "best": load_kernels()}


def random_experts(experts: int, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = torch.randint(256, (experts, rows, columns // 32, 16), dtype=torch.uint8)
    scales = torch.randint(120, 126, (experts, rows, columns // 32), dtype=torch.uint8)
    return blocks, scales


class Stored(dict[str, torch.Tensor]):
    """`Weights` of one layer, "up"."""

    def has(self, name: str) -> bool:
        return name in self

    def raw(self, name: str) -> None:
        return None

    def get(self, name: str) -> torch.Tensor:  # type: ignore[override]
        return self[name]


def load(blocks: torch.Tensor, scales: torch.Tensor, engine: str = "torch") -> LinearWeight:
    kernels, device = KERNELS[engine], torch.device("cpu")
    target = Target(dtype=torch.float32, device=device, kernels=kernels, exact_activations=True)
    weights = Stored({"up.blocks": blocks, "up.scales": scales})
    return MXFP4({}, target).load(weights, ["up"], [Part.whole()])


@pytest.mark.parametrize("engine", KERNELS)
def test_numbers_are_those_of_transformers_in_4_bits(engine: str) -> None:
    torch.manual_seed(0)
    blocks, scales = random_experts(1, 48, 128)
    (wanted,) = convert_moe_packed_tensors(blocks, scales).float()
    weight = load(blocks[0], scales[0], engine)
    assert torch.equal(weight.lookup(torch.arange(48)), wanted.t())
    x = torch.randn(5, 128)
    torch.testing.assert_close(weight.apply(x, None, None), x @ wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", KERNELS)
def test_scales_of_any_size_are_kept(engine: str) -> None:
    blocks, scales = random_experts(1, 16, 64)
    scales[0, 3, 1], scales[0, 5, 0], scales[0, 7] = 1, 250, 90
    (wanted,) = convert_moe_packed_tensors(blocks, scales).float()
    weight = load(blocks[0], scales[0], engine)
    assert torch.equal(weight.lookup(torch.arange(16)), wanted.t())


@pytest.mark.parametrize("engine", KERNELS)
def test_groups_of_zeros_may_have_any_scale(engine: str) -> None:
    blocks, scales = random_experts(1, 16, 64)
    blocks[0, 2, 1], scales[0, 2, 1] = 0x80, 0  # 0 and -0
    blocks[0, 3, 1], scales[0, 3, 1] = 0x08, 254
    weight = load(blocks[0], scales[0], engine)
    assert not weight.lookup(torch.tensor([2, 3]))[:, 32:].any()


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
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


def test_damaged_tensors_are_named() -> None:
    blocks, scales = random_experts(1, 8, 64)
    with pytest.raises(CheckpointError, match=r"up.blocks: expected \[any, any, 16\] uint8, fou"):
        load(blocks[0, :, :, :15], scales[0])
    with pytest.raises(CheckpointError, match=r"up.scales: expected \[8, 2\] uint8, found \[8, 1"):
        load(blocks[0], scales[0, :, :1])
    scales[0, 7, 1] = 255
    with pytest.raises(CheckpointError, match="up.scales: expected powers of two, found NaN"):
        load(blocks[0], scales[0])
