"""k_scale and v_scale of checkpoints, against transformers with the formula as its attention."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from headrace.errors import CheckpointError
from tests.models.checkpoints import make_checkpoint
from tests.models.driver import ENGINES, drive, drive_kernels
from tests.quantization.test_formats import PROMPT, error, logits_of

SCALES = {"k": [0.004, 0.5, 1.0], "v": [0.01, 0.002, 0.3]}
"""Of each layer; some cut off what is there."""
SPELLINGS = {
    "LlamaForCausalLM": {"k": "self_attn.k_proj.k_scale", "v": "self_attn.v_proj.v_scale"},
    "Qwen2ForCausalLM": {"k": "self_attn.k_scale", "v": "self_attn.v_scale"},
    "MistralForCausalLM": {
        "k": "self_attn.k_proj.output_scale",
        "v": "self_attn.v_proj.output_scale",
    },
    "Phi3ForCausalLM": {"k": "self_attn.qkv_proj.k_scale", "v": "self_attn.qkv_proj.v_scale"},
}


def through_8_bits(states: torch.Tensor, scale: float) -> torch.Tensor:
    return (states / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


def float8_attention(module: Any, query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> Any:
    key = through_8_bits(key, SCALES["k"][module.layer_idx])
    value = through_8_bits(value, SCALES["v"][module.layer_idx])
    return sdpa_attention_forward(module, query, key, value, *rest, **more)


AttentionInterface.register("float8", float8_attention)
AttentionMaskInterface.register("float8", sdpa_mask)


def write_scales(folder: Path, names: dict[str, str], shape: tuple[int, ...] = (1,)) -> None:
    tensors = load_file(folder / "model.safetensors")
    for kind, name in names.items():
        for layer, scale in enumerate(SCALES[kind]):
            tensors[f"model.layers.{layer}.{name}"] = torch.full(shape, scale)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@torch.inference_mode()
def reference_logits(model: Any) -> torch.Tensor:
    return model(torch.tensor([PROMPT])).logits[0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("architecture", SPELLINGS)
def test_a_cache_of_8_bit_floats_uses_them(architecture: str, engine: str, tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path, architecture, "plain")
    write_scales(tmp_path, SPELLINGS[architecture])
    got = logits_of(ENGINES[engine](tmp_path, kv_dtype=torch.float8_e4m3fn))
    exact = reference_logits(model)
    model.set_attn_implementation("float8")
    wanted = reference_logits(model)
    assert error(wanted, exact) > 0.05
    assert error(got, wanted) < 1e-3


@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.int8])
def test_other_caches_say_that_they_do_not(
    kv_dtype: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_checkpoint(tmp_path, "LlamaForCausalLM", "plain")
    write_scales(tmp_path, SPELLINGS["LlamaForCausalLM"])
    with caplog.at_level(logging.INFO):
        got = logits_of(drive_kernels(tmp_path, kv_dtype=kv_dtype))
    assert f"not used with {kv_dtype}" in caplog.text
    assert error(got, reference_logits(model)) < 0.03


def test_a_cache_of_8_bit_floats_says_that_there_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_checkpoint(tmp_path, "LlamaForCausalLM", "plain")
    drive(tmp_path, kv_dtype=torch.float8_e4m3fn)
    assert "no k_scale and v_scale in the checkpoint, 1 instead" in caplog.text


@pytest.mark.parametrize(("shape", "scale"), [((4,), 1.0), ((), 0.0), ((), float("inf"))])
def test_what_is_no_scale_is_refused(
    shape: tuple[int, ...], scale: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path, "LlamaForCausalLM", "plain")
    monkeypatch.setitem(SCALES, "k", [1.0, scale, 1.0])
    write_scales(tmp_path, SPELLINGS["LlamaForCausalLM"], shape)
    with pytest.raises(CheckpointError, match="k_proj.k_scale: expected one positive number"):
        drive(tmp_path, kv_dtype=torch.float8_e4m3fn)
