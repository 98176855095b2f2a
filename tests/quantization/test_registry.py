"""Which scheme a config and --quantize ask for."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.config import QuantizeName
from headrace.errors import CheckpointError, StartupError
from headrace.quantization import ON_LOAD, SCHEMES, UNSUPPORTED, Target, open_scheme
from headrace.quantization.awq import AWQ
from headrace.quantization.bitsandbytes import BitsAndBytes
from headrace.quantization.compressed_tensors import CompressedTensors
from headrace.quantization.fp8 import FP8
from headrace.quantization.gptq import GPTQ
from headrace.quantization.none import Unquantized
from headrace.quantization.on_load import RoundedScheme
from tests.models.checkpoints import BASE

TARGET = Target(dtype=torch.float32, device=torch.device("cpu"))
GPTQ_4 = {"quant_method": "gptq", "bits": 4, "group_size": 128}
AWQ_4 = {"quant_method": "awq", "bits": 4, "group_size": 128}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
LLM_INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
PACKED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4}}},
}


def scheme_of(config: dict[str, Any] | None, quantize: str | None = None) -> Any:
    return open_scheme({"quantization_config": config}, TARGET, quantize)


@pytest.mark.parametrize("config", [{}, {"quantization_config": None}])
def test_without_a_quantization_config_weights_are_dense(config: dict[str, None]) -> None:
    assert isinstance(open_scheme(config, TARGET, None), Unquantized)


@pytest.mark.parametrize(
    ("config", "scheme", "agreeing"),
    [
        (GPTQ_4, GPTQ, ["gptq"]),
        (AWQ_4, AWQ, ["awq", "gptq"]),
        ({"quant_method": "fp8"}, FP8, ["fp8"]),
        ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, FP8, ["fp8"]),
        (NF4, BitsAndBytes, ["bitsandbytes-nf4"]),
        (LLM_INT8, BitsAndBytes, ["bitsandbytes"]),
        (PACKED, CompressedTensors, ["compressed-tensors"]),
    ],
)
def test_a_quantized_checkpoint_needs_no_flag_and_bears_no_other(
    config: dict[str, Any], scheme: type, agreeing: list[str]
) -> None:
    assert isinstance(scheme_of(config), scheme)
    for quantize in get_args(QuantizeName):
        if quantize in agreeing:
            assert isinstance(scheme_of(config, quantize), scheme)
        else:
            with pytest.raises(StartupError, match=f"--quantize {quantize}: "):
                scheme_of(config, quantize)


@pytest.mark.parametrize("quantize", get_args(QuantizeName))
def test_every_value_of_the_flag_works_on_floats_or_says_why_not(quantize: str) -> None:
    if quantize in ON_LOAD:
        assert isinstance(scheme_of(None, quantize), RoundedScheme)
        return
    reason = UNSUPPORTED.get(quantize, "not quantized; while loading it can become int4")
    with pytest.raises(StartupError, match=f"--quantize {quantize}: .*{reason[:20]}"):
        scheme_of(None, quantize)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "spqr"}, "'spqr'; supported are none, gptq, awq"),
        ({"quant_method": "exl2"}, "'exl2'; .* give a GPTQ or AWQ checkpoint"),
        (GPTQ_4 | {"bits": 5}, r"5.* `\$.bits`"),
        (GPTQ_4 | {"dynamic": {"+:.*": {"bits": 8}}}, "dynamic"),
        (GPTQ_4 | {"checkpoint_format": "marlin"}, "marlin"),
        (AWQ_4 | {"version": "gemv"}, "gemv"),
        ({"quant_method": "bitsandbytes"}, "load_in_4bit or load_in_8bit"),
        (PACKED | {"format": "marlin-24"}, "marlin-24"),
        (PACKED | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse"),
    ],
)
def test_what_cannot_be_read_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        scheme_of(config)


def test_every_entry_is_a_scheme() -> None:
    assert all(callable(scheme.load) for scheme in SCHEMES.values())


@pytest.mark.parametrize(
    ("in_config", "files", "expected"),
    [
        ({"quantization_config": GPTQ_4}, {}, GPTQ_4),
        ({"compression_config": PACKED}, {}, PACKED),
        ({}, {"quantize_config.json": {"bits": 4, "group_size": 128, "desc_act": False}}, GPTQ_4),
        (
            {},
            {"quant_config.json": {"w_bit": 4, "q_group_size": 128, "version": "GEMM"}},
            AWQ_4 | {"version": "GEMM"},
        ),
        ({}, {"quantize_config.json": {"bits": 4, "group_size": 128, "zero_point": True}}, AWQ_4),
        ({}, {"quantize_config.json": {"bits": 4, "group_size": 128, "zero_point": False}}, AWQ_4),
        ({"quantization_config": {"load_in_8bit": True}}, {}, LLM_INT8),
    ],
)
def test_all_spellings_of_the_config(
    tmp_path: Path, in_config: dict[str, Any], files: dict[str, Any], expected: dict[str, Any]
) -> None:
    for name, content in {"config.json": BASE | in_config, **files}.items():
        (tmp_path / name).write_text(json.dumps(content))
    found = open_checkpoint(tmp_path).config["quantization_config"]
    assert found.items() >= expected.items()


@pytest.mark.parametrize("config", [[], {"what": 1}])
def test_a_config_without_method_is_an_error(tmp_path: Path, config: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(BASE | {"quantization_config": config}))
    with pytest.raises(CheckpointError, match="config.json: quantization_config: expected"):
        open_checkpoint(tmp_path)
