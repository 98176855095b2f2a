"""Oracle: the `peft` library's own merge of adapters that it wrote."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.peft import open_adapter
from headrace.errors import CheckpointError
from headrace.weights import open_weights
from headrace.weights.lora import LoraWeights
from headrace.weights.safetensors import SafetensorsWeights

SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 32}


def llama() -> Any:
    config = transformers.LlamaConfig(
        **SMALL, intermediate_size=24, num_key_value_heads=1, tie_word_embeddings=False
    )
    return transformers.LlamaForCausalLM(config)


def gpt2() -> Any:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=32)
    )


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "plain": (llama, {"target_modules": ["q_proj", "down_proj"]}),
    "rank-stabilized": (llama, {"target_modules": ["v_proj"], "use_rslora": True}),
    "patterns": (
        llama,
        {
            "target_modules": "all-linear",
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "up_proj": 3},
            "alpha_pattern": {"q_proj": 5, r"layers\.0\..*": 7},
        },
    ),
    "embedding": (llama, {"target_modules": ["embed_tokens", "lm_head"]}),
    "whole modules": (
        llama, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    ),
    "transposed": (gpt2, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "biases": (gpt2, {"target_modules": ["c_fc"], "fan_in_fan_out": True, "bias": "lora_only"}),
}  # fmt: skip


def make(folder: Path, case: str) -> dict[str, torch.Tensor]:
    """Write base and adapter; returns the merged parameters by name.

    The libraries warn about each other and about the tiny vocabulary.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _make(folder, case)


def _make(folder: Path, case: str) -> dict[str, torch.Tensor]:
    import peft  # not whenever tests are collected: it brings torch's compiler with it

    build, options = CASES[case]
    torch.manual_seed(0)
    base = build()
    base.name_or_path = "base"
    base.save_pretrained(folder / "base")
    config = peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **options)
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.5)
    model.save_pretrained(folder / "adapter")
    base = type(base).from_pretrained(folder / "base")
    model = peft.PeftModel.from_pretrained(base, folder / "adapter")
    state: dict[str, torch.Tensor] = model.merge_and_unload().state_dict()
    return state


@pytest.mark.parametrize("case", CASES)
def test_as_peft_merges(case: str, tmp_path: Path) -> None:
    merged = make(tmp_path, case)
    base = SafetensorsWeights([tmp_path / "base" / "model.safetensors"])
    weights = LoraWeights(base, open_adapter(tmp_path / "adapter"))
    changed = 0
    for name in base.names:
        suffixed = [full for full in merged if full.endswith(name)]
        torch.testing.assert_close(weights.get(name), merged[suffixed[0]])
        is_changed = not torch.equal(weights.get(name), base.get(name))
        changed += is_changed
        assert weights.raw(name) is None
    assert changed > 0
    assert set(base.names) == {name for name in base.names if weights.has(name)}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Of rank 1, all ones, on x.q of shape [2, 3]."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "base", "r": 1, "lora_alpha": 2}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {"lora_A": torch.ones(1, 3), "lora_B": torch.ones(2, 1)}
    prefix = "base_model.model.x.q"
    save_file(
        {f"{prefix}.{name}.weight": tensor for name, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


def merged(folder: Path, adapter: Path, base: dict[str, torch.Tensor]) -> LoraWeights:
    save_file(base, folder / "base.safetensors")
    return LoraWeights(SafetensorsWeights([folder / "base.safetensors"]), open_adapter(adapter))


def test_the_base_keeps_its_dtype_and_the_sum_is_exact(adapter: Path, tmp_path: Path) -> None:
    base = {"x.q.weight": torch.full((2, 3), 0.25, dtype=torch.bfloat16)}
    weights = merged(tmp_path, adapter, base)
    assert torch.equal(weights.get("x.q.weight"), torch.full((2, 3), 2.25, dtype=torch.bfloat16))


def test_a_bin_adapter(adapter: Path, tmp_path: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    torch.save(tensors, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    weights = merged(tmp_path, adapter, {"x.q.weight": torch.zeros(2, 3)})
    assert torch.equal(weights.get("x.q.weight"), torch.full((2, 3), 2.0))


@pytest.mark.parametrize(
    ("extra", "base", "message"),
    [
        ({}, {"y": torch.ones(1)}, "changes x.q.weight, which the base model base does not have"),
        ({"z": torch.ones(1)}, {"x.q.weight": torch.ones(2, 3)}, "has z, which the base model"),
        ({"z.lora_A.weight": torch.ones(1)}, {"x.q.weight": torch.ones(2, 3)}, "z.weight lacks"),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    extra: Any, base: Any, message: str, adapter: Path, tmp_path: Path
) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file(load_file(path) | extra, path)
    with pytest.raises(CheckpointError, match=f"adapter_model.safetensors: .*{message}"):
        merged(tmp_path, adapter, base)


def test_another_shape_is_refused(adapter: Path, tmp_path: Path) -> None:
    weights = merged(tmp_path, adapter, {"x.q.weight": torch.ones(3, 2)})
    with pytest.raises(CheckpointError, match=r"x.q.weight of shape \[3, 2\] by \[2, 3\]"):
        weights.get("x.q.weight")


def test_factors_of_different_ranks_are_refused(adapter: Path, tmp_path: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file(load_file(path) | {"base_model.model.x.q.lora_A.weight": torch.ones(2, 3)}, path)
    weights = merged(tmp_path, adapter, {"x.q.weight": torch.ones(2, 3)})
    with pytest.raises(CheckpointError, match=r"lora_A.weight has shape \[2, 3\].*\[2, 1\]"):
        weights.get("x.q.weight")


def test_adapter_of_a_checkpoint(tmp_path: Path) -> None:
    merged = make(tmp_path, "plain")
    checkpoint = open_checkpoint(tmp_path / "base", tmp_path / "adapter")
    name = "model.layers.1.self_attn.q_proj.weight"
    torch.testing.assert_close(open_weights(checkpoint).get(name), merged[name])
    base = open_weights(replace(checkpoint, adapter=None)).get(name)
    assert not torch.equal(base, merged[name])
