"""Oracle: the same config.json written by transformers in its own spelling."""

from typing import Any

import pytest
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from headrace.checkpoint.model_config import normalize
from headrace.errors import CheckpointError

SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 128,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 2.0}


def config(**fields: Any) -> dict[str, Any]:
    return normalize({**SHAPE, **fields}, "config.json", has_output_head=False)


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_what_transformers_writes_today(kind: type) -> None:
    written = kind(**SHAPE, rope_parameters={**LINEAR, "rope_theta": 123.0}).to_dict()
    normal = normalize(written, "config.json", has_output_head=True)
    assert normal["rope_theta"] == 123.0
    assert normal["rope_scaling"] == LINEAR
    assert not {"rope_parameters", "torch_dtype"} & set(normal)
    assert normal["head_dim"] == written.get("head_dim", 16)


def test_old_and_new_spelling_agree() -> None:
    new = config(rope_parameters={**LINEAR, "rope_theta": 9.0}, dtype="bfloat16")
    old = config(
        rope_scaling={"type": "linear", "factor": 2.0}, rope_theta=9, torch_dtype="bfloat16"
    )
    assert new == old
    assert config(rope_parameters={"rope_type": "default", "rope_theta": 9.0}) == config(
        rope_scaling=None, rope_theta=9.0
    )


def test_defaults() -> None:
    fields = {name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}
    normal = normalize(fields, "config.json", has_output_head=True)
    assert normal["num_key_value_heads"] == 4
    assert normal["head_dim"] == 16
    assert normal["rope_theta"] == 10_000.0
    assert normal["tie_word_embeddings"] is False
    assert normal["dtype"] is None


def test_tied_unless_the_config_or_the_weights_say_otherwise() -> None:
    assert config()["tie_word_embeddings"] is True
    assert config(tie_word_embeddings=False)["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": None}, "config.json: hidden_size must be a positive integer"),
        ({"vocab_size": -1}, "found -1"),
        ({"head_dim": "x"}, "head_dim"),
        ({"rope_scaling": 3}, "rope_scaling must be an object"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "must be for"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        config(**fields)
