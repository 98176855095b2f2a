"""Oracle: transformers' own translation of GGUF metadata."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoConfig, LlamaConfig

from headrace.checkpoint.embedded import embedded_model
from headrace.checkpoint.gguf import GGUFFile
from headrace.checkpoint.gguf_config import config_of, end_token_ids
from headrace.errors import CheckpointError
from tests.checkpoint.gguf_files import TOKENS, write_gguf

FIELDS = [
    "architectures", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings",
    "vocab_size", "hidden_act", "bos_token_id",
]  # fmt: skip


def reference(path: Path) -> Any:
    return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)


@pytest.mark.slow
def test_embedded_model_matches_transformers() -> None:
    config, expected = config_of(GGUFFile(embedded_model())), reference(embedded_model())
    for name in set(FIELDS) - {"architectures"}:
        assert config[name] == getattr(expected, name), name
    assert config["rope_theta"] == expected.rope_parameters["rope_theta"]
    assert config["rms_norm_eps"] == pytest.approx(expected.rms_norm_eps)


@pytest.mark.parametrize(
    ("architecture", "hf"),
    [
        ("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"),
        ("qwen3", "Qwen3ForCausalLM"), ("qwen2moe", "Qwen2MoeForCausalLM"),
        ("qwen3moe", "Qwen3MoeForCausalLM"),
    ],
)  # fmt: skip
def test_each_architecture_matches_transformers(architecture: str, hf: str, tmp_path: Path) -> None:
    keys = {f"{architecture}.attention.key_length": 16, f"{architecture}.vocab_size": len(TOKENS)}
    if architecture.endswith("moe"):
        experts = {"expert_count": 6, "expert_used_count": 2, "expert_feed_forward_length": 32}
        keys |= {f"{architecture}.{name}": value for name, value in experts.items()}
    path = write_gguf(tmp_path / "model.gguf", architecture, keys)
    config, expected = config_of(GGUFFile(path)), reference(path)
    assert config["architectures"] == [hf]
    assert config["model_type"] == expected.model_type
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                 "num_key_value_heads", "max_position_embeddings", "vocab_size"):  # fmt: skip
        assert config[name] == getattr(expected, name), name
    assert config["head_dim"] == 16
    if architecture.endswith("moe"):
        for name in ("num_experts", "num_experts_per_tok", "norm_topk_prob"):
            assert config[name] == getattr(expected, name), name
    assert config["rope_theta"] == expected.rope_parameters["rope_theta"]


def test_biases_are_seen_in_the_tensors(tmp_path: Path) -> None:
    tensors = {"blk.0.attn_q.bias": np.zeros(64, np.float32)}
    assert not config_of(GGUFFile(write_gguf(tmp_path / "a.gguf")))["attention_bias"]
    path = write_gguf(tmp_path / "b.gguf", tensors=tensors)
    assert config_of(GGUFFile(path))["attention_bias"]


def test_linear_and_yarn_scaling(tmp_path: Path) -> None:
    keys = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    path = write_gguf(tmp_path / "linear.gguf", keys=keys)
    assert config_of(GGUFFile(path))["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    keys |= {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.original_context_length": 64,
    }
    path = write_gguf(tmp_path / "yarn.gguf", keys=keys)
    assert config_of(GGUFFile(path))["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }


def llama3_divisors(factor: float) -> np.ndarray[Any, Any]:
    """What llama.cpp's converter stores, computed by transformers."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": factor}
    scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192}
    shape = {"hidden_size": 512, "num_attention_heads": 4, "head_dim": 128}
    config = LlamaConfig(**shape, max_position_embeddings=131072, rope_parameters=scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / 5000.0 ** (np.arange(0, 128, 2) / 128)
    return np.asarray(plain / scaled.double().numpy(), np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_recovered(factor: float, tmp_path: Path) -> None:
    tensors = {"rope_freqs.weight": llama3_divisors(factor)}
    path = write_gguf(tmp_path / "llama3.gguf", tensors=tensors)
    scaling = config_of(GGUFFile(path))["rope_scaling"]
    assert scaling["rope_type"] == "llama3"
    assert scaling["factor"] == pytest.approx(factor)
    tensors["rope_freqs.weight"][40] *= 1.5
    path = write_gguf(tmp_path / "other.gguf", tensors=tensors)
    with pytest.raises(CheckpointError, match="rope_freqs"):
        config_of(GGUFFile(path))


def test_all_end_tokens_count(tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.eot_token_id": 4, "tokenizer.ggml.eom_token_id": 2}
    assert end_token_ids(GGUFFile(write_gguf(tmp_path / "ends.gguf", keys=keys))) == (2, 4)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"llama.block_count": None}, "llama.block_count must be of type int"),
        ({"llama.block_count": "many"}, "found 'many'"),
        ({"llama.attention.head_count_kv": [2, 2]}, "head_count_kv"),
        ({"llama.rope.scaling.type": "longrope"}, "longrope"),
        ({"llama.rope.dimension_count": 8}, "dimension_count 8 is not"),
        ({"split.count": 2}, "is one of 2 parts"),
        ({"split.count": "two"}, "split.count is .two"),
        ({"tokenizer.ggml.eos_token_id": "two"}, "eos_token_id"),
    ],
)
def test_unusable_metadata_is_named(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "bad.gguf", keys=keys)
    with pytest.raises(CheckpointError, match=message):
        config_of(GGUFFile(path))


def test_unknown_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'mamba' is not supported, only gemma"):
        config_of(GGUFFile(write_gguf(tmp_path / "mamba.gguf", "mamba")))
