"""One layout per device: what it takes, what cannot be fused, and which parts can be cut out."""

import logging
from dataclasses import replace

import pytest
import torch
from gguf import GGMLQuantizationType, dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from headrace.checkpoint.ggml import GGMLType
from headrace.errors import CheckpointError
from headrace.kernels import BLOCK_FORMATS, Kernels, TorchKernels
from headrace.kernels import load as load_kernels
from headrace.quantization import LinearWeight, Target, open_scheme
from headrace.quantization.matrix import QuantizedMatrix
from headrace.quantization.mxfp4 import read_blocks
from headrace.quantization.on_load import ON_LOAD
from headrace.quantization.place import Matrix, cut, place, to_floats
from headrace.quantization.rounding import round_between, round_float8, round_integers
from headrace.weights.base import RawTensor
from headrace.weights.naming import Naming, RenamedWeights, Source, part
from headrace.weights.parts import Part, Slice
from tests.kernels.samples import random_blocks
from tests.quantization.formats import FORMATS, Format
from tests.quantization.test_damaged import DictWeights
from tests.quantization.test_formats import error
from tests.quantization.test_mxfp4 import random_experts
from tests.quantization.test_packed import blocks

ENGINES = {"torch": None, "twins": TorchKernels("test"), "best": load_kernels()}
NAME = "layer"


def target(kernels: Kernels | None) -> Target:
    return Target(
        dtype=torch.float32, device=torch.device("cpu"), kernels=kernels, exact_activations=True
    )


def stored(form: Format, weight: torch.Tensor, kernels: Kernels | None) -> LinearWeight:
    tensors = {f"{NAME}.{suffix}": tensor for suffix, tensor in form.write(weight)[0].items()}
    scheme = open_scheme({"quantization_config": form.config}, target(kernels), None)
    return scheme.load(DictWeights(tensors), [NAME], [Part.whole()])


def test_8_bit_floats_meet_int8_activations_as_integers_of_their_size() -> None:
    matrix = round_float8(torch.randn(256, 1024))
    quick = replace(target(ENGINES["best"]), exact_activations=False)
    weight = place([matrix], quick, [NAME])
    assert weight.nbytes * 8 <= 1.05 * 8 * 256 * 1024
    x = torch.randn(7, 1024)
    assert error(weight.apply(x, None, None), x @ matrix.dequantize().T) < 0.01


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("quantize", ON_LOAD)
@pytest.mark.parametrize("columns", [64, 80])  # 80: groups of 16, filled up by the kernels
def test_rows_can_be_looked_up(columns: int, quantize: str, engine: str) -> None:
    matrix = ON_LOAD[quantize].layers(torch.randn(48, columns))
    weight = place([matrix], target(ENGINES[engine]), [NAME])
    ids = torch.tensor([3, 0, 47, 3])
    torch.testing.assert_close(weight.lookup(ids), matrix.dequantize()[ids], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_widths_groups_and_zero_points_can_be_fused(engine: str) -> None:
    parts = [
        round_integers(torch.randn(16, 128), 4, 32),
        round_integers(torch.randn(32, 128), 8, -1),
        round_between(torch.randn(8, 128), 4, 64),
    ]
    weight = place(parts, target(ENGINES[engine]), [NAME])
    x = torch.randn(5, 128)
    wanted = x @ torch.cat([part.dequantize() for part in parts]).T
    torch.testing.assert_close(weight.apply(x, None, None), wanted, rtol=2e-3, atol=2e-2)


def error_of(weight: LinearWeight, parts: list[Matrix]) -> float:
    """Of a fused weight with bias and residual."""
    x, bias = torch.randn(5, weight.in_features), torch.randn(weight.out_features)
    residual = torch.randn(5, weight.out_features)
    wanted = x @ torch.cat([to_floats(part) for part in parts]).T + bias + residual
    return error(weight.apply(x, bias, residual), wanted)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("exact", [True, False])
def test_layouts_that_differ_stay_as_they_are(engine: str, exact: bool) -> None:
    parts: list[Matrix] = [
        round_integers(torch.randn(16, 256), 4, 32),
        round_float8(torch.randn(24, 256)),
        torch.randn(8, 256),
        *(blocks(name, 16, 256, 0)[0] for name in ("Q4_0", "Q4_0", "Q8_0")),
    ]
    at = replace(target(ENGINES[engine]), exact_activations=exact)
    weight = place(parts, at, ["a", "b"])
    assert error_of(weight, parts) < (2e-3 if exact else 2e-2)
    if engine == "best":
        assert weight.nbytes == sum(place([part], at, ["a"]).nbytes for part in parts)


@pytest.mark.parametrize("engine", ["twins", "best"])
def test_columns_in_different_orders_are_kept_in_16_bits(
    engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    parts: list[Matrix] = []
    for _ in range(2):
        order = (torch.randperm(128) // 32).int()
        parts.append(replace(round_integers(torch.randn(16, 128), 4, 32), group_index=order))
    with caplog.at_level(logging.WARNING):
        weight = place(parts, target(ENGINES[engine]), ["q", "k"])
    assert "q, k: quantized in different orders, kept in 16 bits" in caplog.text
    assert error_of(weight, parts) < 2e-3 and weight.nbytes == 2 * 32 * 128


def test_inputs_of_other_sizes_are_not_fused() -> None:
    weights = DictWeights({"a.weight": torch.randn(4, 32), "b.weight": torch.randn(4, 64)})
    with pytest.raises(CheckpointError, match=r"\(a, b\) read \[32, 64\] inputs"):
        open_scheme({}, target(None), None).load(weights, ["a", "b"], [Part.whole()] * 2)


def test_scales_beyond_float16_are_refused() -> None:
    form = FORMATS["ct-w4a16"]
    tensors = {f"{NAME}.{k}": v for k, v in form.write(torch.randn(16, 64) * 1e6)[0].items()}
    scheme = open_scheme({"quantization_config": form.config}, target(ENGINES["best"]), None)
    with pytest.raises(
        CheckpointError, match="weights of layer: scales: expected up to 65504 .*fo"
    ):
        scheme.load(DictWeights(tensors), [NAME], [Part.whole()])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("start", "stop"), [(0, 64), (64, 128), (24, 88)])
def test_every_format_can_be_cut_anywhere(name: str, engine: str, start: int, stop: int) -> None:
    form, weight = FORMATS[name], torch.randn(64, 128)
    tensors, exact = form.write(weight)
    named = {f"{NAME}.{suffix}": tensor for suffix, tensor in tensors.items()}
    scheme = open_scheme({"quantization_config": form.config}, target(None), None)
    matrix = scheme.read(DictWeights(named), NAME)  # type: ignore[attr-defined]
    assert isinstance(matrix, QuantizedMatrix)
    for share, wanted in (
        (matrix.rows(slice(16, 48)), exact[16:48]),
        (matrix.columns(start, stop), exact[:, start:stop]),
    ):
        placed = place([share], target(ENGINES[engine]), [NAME])
        x = torch.randn(3, share.shape[1])
        assert error(placed.apply(x, None, None), x @ wanted.T) < 5e-3


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("start", "stop"), [(0, 64), (64, 128), (24, 88)])
def test_mxfp4_can_be_cut_anywhere(engine: str, start: int, stop: int) -> None:
    blocks, scales = random_experts(1, 64, 128)
    (exact,) = convert_moe_packed_tensors(blocks, scales).float().mT
    matrix = read_blocks(DictWeights({"up.blocks": blocks[0], "up.scales": scales[0]}), "up")
    for share, wanted in (
        (matrix.rows(slice(16, 48)), exact[16:48]),
        (matrix.columns(start, stop), exact[:, start:stop]),
    ):
        placed = place([share], target(ENGINES[engine]), [NAME])
        x = torch.randn(3, share.shape[1])
        assert error(placed.apply(x, None, None), x @ wanted.T) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("share", [0, 1, 2, 3])
def test_blocks_can_be_cut_within(name: str, engine: str, share: int) -> None:
    stored = random_blocks(name, 32, 768)
    values = torch.from_numpy(dequantize(stored, GGMLQuantizationType[name]))
    raw = RawTensor(GGMLType[name], torch.from_numpy(stored), (32, 768))
    columns = Slice(share, share + 1, 4)  # 192 each
    matrix = cut(raw, Part(Slice(1, 2, 2), columns))
    weight = place([matrix], target(ENGINES[engine]), [NAME])
    wanted = values[16:, columns.of(768)]
    assert (weight.out_features, weight.in_features) == wanted.shape
    assert torch.allclose(weight.lookup(torch.arange(16)), wanted, rtol=1e-5, atol=1e-7)
    x = torch.randn(3, 192)
    assert error(weight.apply(x, None, None), x @ wanted.T) < 1e-5


class Counting(DictWeights):
    """Notes what is read."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__(tensors)
        self.read: list[str] = []

    def get(self, name: str) -> torch.Tensor:
        self.read.append(name)
        return super().get(name)


def test_a_matrix_of_several_layers_is_read_and_rounded_once() -> None:
    weights = Counting({"model.layers.0.both.weight": torch.randn(8, 64)})
    naming = Naming(inner={"a": Source("both", part(0, 3)), "b": Source("both", part(3, 5))})
    scheme = open_scheme({}, target(None), "int4")
    layers = ["model.layers.0.a", "model.layers.0.b"]
    loaded = scheme.load(RenamedWeights(weights, naming), layers, [Part.whole()] * 2)
    assert (loaded.out_features, loaded.in_features) == (8, 64)
    assert weights.read == ["model.layers.0.both.weight"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_dtype_that_the_kernels_lack_becomes_float32(engine: str) -> None:
    matrix = torch.randn(16, 64, dtype=torch.float64)
    placed = place([matrix], target(ENGINES[engine]), [NAME])
    x = torch.randn(3, 64)
    torch.testing.assert_close(placed.apply(x, None, None), (x.double() @ matrix.T).float())
