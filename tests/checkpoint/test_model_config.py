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
        ({"hidden_size": "x"}, "config.json: hidden_size must be a positive integer"),
        ({"vocab_size": -1}, "found -1"),
        ({"head_dim": "x"}, "head_dim"),
        ({"rope_scaling": 3}, "rope_scaling must be an object"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "must be for"),
        (
            {"rope_parameters": {"full_attention": {}, "sliding_attention": LINEAR}},
            "scaled rotary embeddings under a window",
        ),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        config(**fields)


def test_names_that_only_the_models_own_code_knows_stay() -> None:
    own = {"width": 64, "torch_dtype": "bfloat16"}
    assert normalize(own, "config.json", False) == {"width": 64, "dtype": "bfloat16"}


def test_names_of_older_families() -> None:
    old = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 99, "vocab_size": 128,
           "n_inner": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-3,
           "rotary_pct": 0.25, "rotary_emb_base": 500}  # fmt: skip
    normal = normalize(old, "config.json", has_output_head=False)
    expected = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                "max_position_embeddings": 99, "intermediate_size": 256, "hidden_act": "gelu_new",
                "layer_norm_eps": 1e-3, "partial_rotary_factor": 0.25,
                "rope_theta": 500.0}  # fmt: skip
    assert expected.items() <= normal.items()


def test_layers_under_a_window_rotate_by_a_base_of_their_own() -> None:
    normal = config(
        rope_parameters={
            "full_attention": {**LINEAR, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    )
    assert (normal["rope_theta"], normal["rope_local_base_freq"]) == (1e6, 1e4)
    assert normal["rope_scaling"] == LINEAR
