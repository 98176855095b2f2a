"""Checkpoints that are truncated, mis-shaped or lie: one line that names the tensor."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headrace.errors import CheckpointError, StartupError
from headrace.kernels import TorchKernels
from headrace.quantization import LinearWeight, Target, open_scheme
from headrace.weights.parts import Part
from tests.models.driver import drive_kernels
from tests.quantization.checkpoints import write_quantized
from tests.quantization.formats import FORMATS, Format

LAYER = "model.layers.0.mlp.up_proj"
MESSAGE = rf"(tensor|weights of) {re.escape(LAYER)}\b.*: expected .+, found .+"
TARGETS = [
    Target(dtype=torch.float32, device=torch.device("cpu"), kernels=kernels)
    for kernels in (None, TorchKernels("test"))
]
Tensors = dict[str, Tensor]


class DictWeights:
    """Tensors in memory."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def has(self, name: str) -> bool:
        return name in self.tensors

    def get(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise CheckpointError(f"tensor {name} is in none of the checkpoint's files")
        return self.tensors[name]

    def raw(self, name: str) -> None:
        return None


def written(form: Format) -> Tensors:
    """One layer of 64 outputs and 96 inputs."""
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    return form.write(weight)[0]


def load(config: dict[str, Any], tensors: Tensors, target: Target = TARGETS[0]) -> LinearWeight:
    named = {f"{LAYER}.{suffix}": tensor for suffix, tensor in tensors.items()}
    scheme = open_scheme({"quantization_config": config}, target, None)
    return scheme.load(DictWeights(named), [LAYER], [Part.whole()])


def change(name: str, how: Callable[[Tensor], Tensor]) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        tensors[name] = how(tensors[name])

    return apply


CASES: list[tuple[str, Callable[[Tensors], None], str]] = [
    (
        "gptq-4bit-32-asym",
        change("qweight", lambda t: t[:-1]),
        r"up_proj.qweight: .*multiples of 4",
    ),
    (
        "gptq-4bit-32-asym",
        change("qweight", lambda t: t.float()),
        r"up_proj.qweight: expected \[any, any\] int32, found \[12, 64\] float32",
    ),
    (
        "gptq-4bit-32-asym",
        change("scales", lambda t: t[:2]),
        r"up_proj.scales: expected \[3, 64\] .*, found \[2, 64\] float16",
    ),
    ("gptq-4bit-32-asym", change("scales", lambda t: t * torch.inf), "up_proj.scales: .*infinity"),
    (
        "gptq-4bit-32-asym",
        change("qzeros", lambda t: t[:, 1:]),
        r"up_proj.qzeros: expected \[3, 8\] int32, found \[3, 7\]",
    ),
    (
        "gptq-4bit-act-order",
        change("g_idx", lambda t: t + 1),
        "up_proj.g_idx: expected groups 0 to 2, found 1 to 3",
    ),
    (
        "gptq-3bit",
        change("qweight", lambda t: t[:-1]),
        "up_proj.qweight: .*multiples of 3",
    ),
    (
        "awq-32",
        change("qzeros", lambda t: t[:1]),
        r"up_proj.qzeros: expected \[3, 8\] int32, found \[1, 8\]",
    ),
    (
        "ct-w4a16",
        change("weight_shape", lambda t: t + 8),
        r"up_proj.weight_shape: expected \[64, 96\] .*, found \[72, 104\]",
    ),
    ("ct-w8a8", change("weight", lambda t: t.short()), "up_proj.weight: expected .* int8"),
    (
        "fp8-blocks",
        change("weight_scale_inv", lambda t: t[:, :1]),
        r"up_proj.weight_scale_inv: expected \[2, 3\] .*, found \[2, 1\]",
    ),
    (
        "fp8-tensor",
        change("weight", lambda t: torch.full_like(t, torch.nan)),
        "up_proj.weight: expected numbers, found NaN",
    ),
    (
        "bitsandbytes-nf4",
        change("weight.absmax", lambda t: t[:-1]),
        r"up_proj.weight.absmax: expected \[96\] .*, found \[95\]",
    ),
    (
        "bitsandbytes-nf4",
        change("weight", lambda t: t[:-1]),
        "up_proj.weight: expected 6144 values of 4 bits .*, found 6142",
    ),
    (
        "bitsandbytes-nf4",
        change("weight.quant_map", lambda t: t.flip(0)),
        "up_proj.weight.quant_map: expected the numbers of nf4",
    ),
    (
        "bitsandbytes-nf4",
        change("weight.quant_state.bitsandbytes__nf4", lambda t: t[:-9]),
        "up_proj.weight.quant_state.bitsandbytes__nf4: ",
    ),
    (
        "bitsandbytes-fp4",
        change("weight.quant_state.bitsandbytes__fp4", lambda t: t.flip(0)),
        "up_proj.weight.quant_state.bitsandbytes__fp4: expected JSON with .*, found other",
    ),
    (
        "bitsandbytes-nf4-nested",
        change("weight.nested_absmax", lambda t: t[:0]),
        r"up_proj.weight.nested_absmax: expected \[1\] .*, found \[0\]",
    ),
    (
        "ct-w4a16-asym",
        change("weight_zero_point", lambda t: t[1:]),
        r"up_proj.weight_zero_point: expected \[8, 3\] int32, found \[7, 3\]",
    ),
    (
        "ct-w4a16-act-order",
        change("weight_g_idx", lambda t: t - 1),
        "up_proj.weight_g_idx: expected groups 0 to 2, found -1 to 1",
    ),
    (
        "ct-fp8-channel",
        change("weight_scale", lambda t: t[:7]),
        r"up_proj.weight_scale: expected \[64, 1\] .*, found \[7, 1\]",
    ),
    (
        "bitsandbytes-8bit",
        change("SCB", lambda t: t[:-1]),
        r"up_proj.SCB: expected \[64\] .*, found \[63\]",
    ),
]


@pytest.mark.parametrize(("name", "damage", "message"), CASES)
def test_the_message_names_tensor_expected_and_found(
    name: str, damage: Callable[[Tensors], None], message: str
) -> None:
    tensors = written(FORMATS[name])
    damage(tensors)
    with pytest.raises(CheckpointError, match=message):
        load(FORMATS[name].config, tensors)


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_tensor_is_named(name: str) -> None:
    form = FORMATS[name]
    optional = {"g_idx", "weight_g_idx", "weight_format"}
    for suffix in set(written(form)) - optional:
        tensors = written(form)
        del tensors[suffix]
        with pytest.raises(CheckpointError, match=r"tensor model\.layers\.0\.mlp\.up_proj\."):
            load(form.config, tensors)


@pytest.mark.parametrize(
    ("name", "lie", "message"),
    [
        ("gptq-4bit-32-sym", {"bits": 8}, "tensor .*up_proj"),
        ("gptq-4bit-32-sym", {"group_size": 64}, "in multiples of group_size 64, found 96"),
        ("gptq-4bit-32-sym", {"group_size": 0}, "in multiples of group_size 0"),
        ("awq-32", {"group_size": 48}, r"up_proj.qzeros: expected \[2, 8\]"),
        ("fp8-blocks", {"weight_block_size": [64, 64]}, r"expected \[1, 2\]"),
        ("bitsandbytes-nf4", {"bnb_4bit_quant_type": "fp4"}, "bitsandbytes__fp4"),
    ],
)
def test_a_config_that_contradicts_the_tensors(
    name: str, lie: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(FORMATS[name].config | lie, written(FORMATS[name]))


def damaged(tensor: Tensor, draw: Any) -> Tensor:
    """Cut, cast, reshaped or overwritten."""
    kind = draw(st.sampled_from(["cut", "cast", "flat", "wider", "values"]))
    if kind == "cut" and tensor.dim():
        return tensor[: draw(st.integers(0, max(0, len(tensor) - 1)))]
    if kind == "cast":
        dtypes = [torch.int32, torch.float16, torch.uint8, torch.int64, torch.float64]
        return tensor.float().to(draw(st.sampled_from(dtypes)))
    if kind == "flat":
        return tensor.flatten()
    if kind == "wider":
        return torch.stack((tensor, tensor))
    size = tensor.numel() * tensor.itemsize
    noise = torch.randint(0, 256, (size,), dtype=torch.uint8)
    return noise.view(tensor.dtype).view(tensor.shape)


@given(data=st.data())
@settings(max_examples=300)
def test_whatever_is_damaged_one_line_names_the_layer(data: Any) -> None:
    form = FORMATS[data.draw(st.sampled_from(sorted(FORMATS)))]
    tensors = written(form)
    suffix = data.draw(st.sampled_from(sorted(tensors)))
    tensors[suffix] = damaged(tensors[suffix], data.draw)
    try:
        load(form.config, tensors, data.draw(st.sampled_from(TARGETS)))
    except StartupError as error:
        assert re.fullmatch(MESSAGE, str(error)), error


@pytest.mark.parametrize("name", FORMATS)
def test_whole_checkpoints_that_are_cut_or_lie(name: str, tmp_path: Path) -> None:
    write_quantized(tmp_path, FORMATS[name])
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    stored = weights.read_bytes()
    weights.write_bytes(stored[: len(stored) // 2])
    with pytest.raises(CheckpointError, match=r"tensor \S+: expected to end at byte \d+, found"):
        drive_kernels(tmp_path)
    weights.write_bytes(stored)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 160}))
    wanted = r"weights of .*mlp\.up_proj: expected \[320, 64\] together, found \[192, 64\]"
    with pytest.raises(CheckpointError, match=wanted):
        drive_kernels(tmp_path)
