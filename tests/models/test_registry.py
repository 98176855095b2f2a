"""Architectures: every entry resolves, and what cannot be served is refused by name."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.attention import PagedBackend
from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.errors import CheckpointError, StartupError
from headrace.models import ARCHITECTURES, spec_of
from headrace.models.load import LoadOptions, load_model
from tests.models.checkpoints import BASE, make_checkpoint
from tests.models.driver import Driver, drive

CONFIG: dict[str, Any] = BASE | {"rope_theta": 1e4, "tie_word_embeddings": False}


def test_the_first_known_architecture_counts() -> None:
    spec = spec_of(CONFIG | {"architectures": ["Unknown", "LlamaForCausalLM"]})
    assert len(spec.layers) == 3 and spec.layers[0].attention.head_size == 16


@pytest.mark.parametrize("entry", ARCHITECTURES.values())
def test_every_entry_resolves(entry: str) -> None:
    module, function = entry.split(":")
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("architectures", [None, [], ["GPT9LMHeadModel"]])
def test_unknown_architecture_lists_the_known(architectures: list[str] | None) -> None:
    with pytest.raises(StartupError, match=", ".join(ARCHITECTURES)):
        spec_of(CONFIG | {"architectures": architectures})


@pytest.mark.parametrize(
    "scaling, expected",
    [
        (None, 512),
        ({"rope_type": "linear", "factor": 2.0}, 1024),
        ({"rope_type": "dynamic", "factor": 3.0}, 1536),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}, 512),
    ],
)
def test_scaling_extends_the_context(scaling: dict[str, Any] | None, expected: int) -> None:
    config = CONFIG | {"architectures": ["LlamaForCausalLM"], "rope_scaling": scaling}
    assert spec_of(config).max_position == expected


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rms_norm_eps": "small"}, r"rms_norm_eps"),
        ({"max_position_embeddings": 0}, r"max_position_embeddings"),
        ({"hidden_act": "swish2"}, r"'swish2' is not supported; supported are silu"),
        ({"num_key_value_heads": 3}, r"num_attention_heads \(4\) must be a multiple"),
        (
            {"rope_scaling": {"rope_type": "spiral"}},
            r"rope_type 'spiral' is not supported; supported are default, linear",
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2, "twist": False}},
            r"unknown field `twist`",
        ),
        (
            {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}},
            r"short_factor has 1 entries, 8 are needed",
        ),
        ({"layer_types": ["full_attention"]}, r"layer_types has 1 entries for 3 layers"),
        ({"head_dim": 15}, r"15 of a head's 15 elements shall rotate .* even"),
        ({"num_hidden_layers": 10**9}, r"num_hidden_layers"),
        ({"layer_types": ["chunked_attention"] * 3}, r"layer_types"),
    ],
)
def test_unusable_config_names_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        spec_of(CONFIG | {"architectures": ["Qwen3ForCausalLM"]} | changes)


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "LlamaForCausalLM", "plain")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(CheckpointError, match=r"model.layers.3.self_attn.q_proj.weight"):
        drive(tmp_path)


def test_wrong_shape_is_named(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "LlamaForCausalLM", "plain")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 200}))
    with pytest.raises(CheckpointError, match=r"embed_tokens: expected \[200, 64\]"):
        drive(tmp_path)


def test_dummy_weights_need_a_config_only(tmp_path: Path) -> None:
    config = CONFIG | {"architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    progress: list[tuple[int, int]] = []
    options = LoadOptions(
        dtype=torch.float32, device=torch.device("cpu"), kv_dtype=torch.float32, load_format="dummy"
    )
    checkpoint = open_checkpoint(tmp_path)
    driver = Driver(*load_model(checkpoint, options, lambda *step: progress.append(step)))
    assert isinstance(driver.backend, PagedBackend)
    assert progress == [(0, 3), (1, 3), (2, 3), (3, 3)]
    (logits,) = driver.step([(driver.start([1, 2, 3]), 3)])
    assert logits.shape == (3, 199) and torch.isfinite(logits).all()


def test_importing_is_light() -> None:
    """Neither transformers nor torch's compiler is loaded by what the engine process imports."""
    code = (
        "import sys, headrace.models.load, headrace.models.qwen3\n"
        "print([m for m in ('transformers', 'torch._dynamo', 'sympy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
