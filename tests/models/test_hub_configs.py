"""Configs as they stand on the hub, in the spelling of their time, and what the specs make of them.

The oracle is what the models' papers and cards say: sizes, windows, rotation, norms.
"""

from typing import Any

import pytest

from headrace.checkpoint.model_config import normalize
from headrace.errors import StartupError
from headrace.layers.mlp import MLPSpec
from headrace.layers.moe import MoESpec
from headrace.models import spec_of
from headrace.models.spec import DecoderSpec


def read(architecture: str, **config: Any) -> DecoderSpec:
    normal = normalize({"architectures": [architecture], **config}, "config.json", True)
    return spec_of(normal)


def test_gpt2() -> None:
    spec = read(
        "GPT2LMHeadModel", n_embd=768, n_head=12, n_layer=12, n_positions=1024, n_ctx=1024,
        vocab_size=50257, layer_norm_epsilon=1e-05, activation_function="gelu_new",
    )  # fmt: skip
    layer = spec.layers[0]
    assert len(spec.layers) == 12 and spec.max_position == spec.embedding.num_positions == 1024
    assert (layer.attention.head_size, layer.mlp.intermediate_size) == (64, 3072)
    assert not layer.mlp.is_gated and layer.attention.rope is None


def test_pythia() -> None:
    spec = read(
        "GPTNeoXForCausalLM", hidden_size=512, num_attention_heads=8, num_hidden_layers=6,
        intermediate_size=2048, rotary_pct=0.25, rotary_emb_base=10000, vocab_size=50304,
        max_position_embeddings=2048, layer_norm_eps=1e-05, use_parallel_residual=True,
        hidden_act="gelu", tie_word_embeddings=False,
    )  # fmt: skip
    rope = spec.layers[0].attention.rope
    assert rope is not None and (rope.rotary_size, rope.theta) == (16, 10000.0)
    assert spec.layers[0].is_parallel


def test_falcon_7b_and_40b() -> None:
    shared: dict[str, Any] = {
        "alibi": False, "bias": False, "layer_norm_epsilon": 1e-05, "vocab_size": 65024,
        "parallel_attn": True,
    }  # fmt: skip
    seven = read(
        "FalconForCausalLM", **shared, hidden_size=4544, num_attention_heads=71,
        num_hidden_layers=32, multi_query=True, new_decoder_architecture=False,
    ).layers[0]  # fmt: skip
    assert (seven.attention.num_kv_heads, seven.attention.head_size) == (1, 64)
    forty = read(
        "FalconForCausalLM", **shared, hidden_size=8192, num_attention_heads=128, num_kv_heads=8,
        num_hidden_layers=60, new_decoder_architecture=True,
    )  # fmt: skip
    assert forty.layers[0].attention.num_kv_heads == 8 and forty.layers[0].is_parallel
    assert forty.naming.source("model.layers.0.input_layernorm").name == "transformer.h.0.ln_attn"


def test_mpt_7b() -> None:
    spec = read(
        "MPTForCausalLM", d_model=4096, n_heads=32, n_layers=32, max_seq_len=2048,
        expansion_ratio=4, vocab_size=50432, no_bias=True, logit_scale=None,
        attn_config={"alibi": True, "alibi_bias_max": 8, "attn_impl": "torch", "clip_qkv": None,
                     "prefix_lm": False, "qk_ln": False, "softmax_scale": None},
    )  # fmt: skip
    slopes = spec.layers[0].attention.alibi_slopes
    assert slopes is not None and len(slopes) == 32 and slopes[-1] == 2**-8
    assert spec.layers[0].mlp.intermediate_size == 16384 and spec.max_position == 2048


def test_bloom() -> None:
    spec = read(
        "BloomForCausalLM", n_embed=1024, n_layer=24, num_attention_heads=16, vocab_size=250880,
        layer_norm_epsilon=1e-05, seq_length=2048, apply_residual_connection_post_layernorm=False,
    )  # fmt: skip
    assert spec.embedding.norm is not None and spec.max_position == 2048
    assert spec.layers[0].attention.alibi_slopes is not None


def test_gemma3_1b() -> None:
    spec = read(
        "Gemma3ForCausalLM", attn_logit_softcapping=None, final_logit_softcapping=None,
        head_dim=256, hidden_activation="gelu_pytorch_tanh", hidden_size=1152,
        intermediate_size=6912, max_position_embeddings=32768, num_attention_heads=4,
        num_hidden_layers=26,
        num_key_value_heads=1, query_pre_attn_scalar=256, rms_norm_eps=1e-06,
        rope_local_base_freq=10000, rope_scaling=None, rope_theta=1000000, sliding_window=512,
        sliding_window_pattern=6, vocab_size=262144,
    )  # fmt: skip
    windows = [layer.attention.window for layer in spec.layers]
    thetas = [layer.attention.rope.theta for layer in spec.layers if layer.attention.rope]
    assert windows[:6] == [512] * 5 + [None]
    assert thetas[:6] == [1e4] * 5 + [1e6]


def test_gemma_says_gelu_and_means_its_approximation() -> None:
    spec = read(
        "GemmaForCausalLM", head_dim=256, hidden_act="gelu", hidden_size=2048,
        intermediate_size=16384, max_position_embeddings=8192, num_attention_heads=8,
        num_hidden_layers=18, num_key_value_heads=1, vocab_size=256000,
    )  # fmt: skip
    assert spec.layers[0].mlp.activation == "gelu_pytorch_tanh"
    assert spec.embedding.scale == 2048**0.5


def test_phi3_mini_128k() -> None:
    config: dict[str, Any] = {
        "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 32, "vocab_size": 32064,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "su", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48},
        "sliding_window": 262144,
    }  # fmt: skip
    rope = read("Phi3ForCausalLM", **config).layers[0].attention.rope
    assert rope is not None and rope.type == "longrope"
    assert rope.attention_factor == pytest.approx(1.190238, abs=1e-6)
    assert rope.original_max_position == 4096


def test_command_r7b() -> None:
    spec = read(
        "Cohere2ForCausalLM", hidden_size=4096, intermediate_size=14336, logit_scale=0.25,
        num_attention_heads=32, num_hidden_layers=32, num_key_value_heads=8, rope_theta=50000,
        sliding_window=4096, sliding_window_pattern=4, layer_norm_eps=1e-05, vocab_size=256000,
        max_position_embeddings=8192,
    )  # fmt: skip
    rotates = [layer.attention.rope is not None for layer in spec.layers]
    assert rotates[:8] == [True, True, True, False] * 2
    assert spec.norm is not None and spec.norm.scale == 0.25


def test_deepseek_v3() -> None:
    spec = read(
        "DeepseekV3ForCausalLM", first_k_dense_replace=3, hidden_act="silu", hidden_size=7168,
        intermediate_size=18432, kv_lora_rank=512, max_position_embeddings=163840,
        moe_intermediate_size=2048, moe_layer_freq=1, n_group=8, n_routed_experts=256,
        n_shared_experts=1, norm_topk_prob=True, num_attention_heads=128, num_experts_per_tok=8,
        num_hidden_layers=61, num_key_value_heads=128, q_lora_rank=1536, qk_nope_head_dim=128,
        qk_rope_head_dim=64, rms_norm_eps=1e-06, rope_theta=10000, routed_scaling_factor=2.5,
        rope_scaling={"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
                      "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096,
                      "type": "yarn"},
        scoring_func="sigmoid", topk_group=4, topk_method="noaux_tc", v_head_dim=128,
        vocab_size=129280, ep_size=1, tie_word_embeddings=False,
    )  # fmt: skip
    dense, sparse = spec.layers[2].mlp, spec.layers[3].mlp
    assert isinstance(dense, MLPSpec) and isinstance(sparse, MoESpec)
    assert sparse.shared is not None and sparse.shared.intermediate_size == 2048
    attention = spec.layers[0].attention
    assert (attention.num_kv_heads, attention.head_size, attention.value_size) == (1, 576, 512)
    assert attention.scale == pytest.approx(192**-0.5 * 1.3688879454**2)
    assert attention.rope is not None and attention.rope.attention_factor == 1.0


def test_gpt_oss_20b() -> None:
    windows = ["sliding_attention", "full_attention"] * 12
    spec = read(
        "GptOssForCausalLM", attention_bias=True, experts_per_token=4, head_dim=64,
        hidden_act="silu", hidden_size=2880, initial_context_length=4096, intermediate_size=2880,
        layer_types=windows, max_position_embeddings=131072, num_attention_heads=64,
        num_experts_per_tok=4, num_hidden_layers=24, num_key_value_heads=8, num_local_experts=32,
        quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
        rms_norm_eps=1e-05, rope_theta=150000, sliding_window=128, swiglu_limit=7.0,
        rope_scaling={"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "truncate": False,
                      "original_max_position_embeddings": 4096, "rope_type": "yarn"},
        tie_word_embeddings=False, vocab_size=201088,
    )  # fmt: skip
    mixture = spec.layers[0].mlp
    assert isinstance(mixture, MoESpec) and mixture.router.num_experts == 32
    assert [layer.attention.window for layer in spec.layers[:2]] == [128, None]
    assert spec.max_position == 131072 and spec.layers[0].attention.has_sinks


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("MixtralForCausalLM", {"num_experts_per_tok": 9}, r"\(9\) exceeds .* \(8\)"),
        ("DeepseekV3ForCausalLM", {"n_group": 3, "topk_group": 2}, "2 of 3 groups"),
        ("DeepseekV3ForCausalLM", {"n_group": 4, "topk_group": 5}, "5 of 4 groups"),
        ("GptOssForCausalLM", {"swiglu_limit": 3.0}, "swiglu_limit"),
        ("OlmoeForCausalLM", {"clip_qkv": 2.0}, "clip_qkv"),
    ],
)
def test_unusable_experts_name_the_field(
    architecture: str, changes: dict[str, Any], message: str
) -> None:
    sizes = {
        "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 99,
        "max_position_embeddings": 64, "num_local_experts": 8, "num_experts_per_tok": 2,
        "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
        "sliding_window": 8, "layer_types": ["full_attention"],
    }  # fmt: skip
    with pytest.raises(StartupError, match=message):
        read(architecture, **sizes | changes)


@pytest.mark.parametrize(
    ("architecture", "field"),
    [
        ("GPT2LMHeadModel", "scale_attn_by_inverse_layer_idx"),
        ("PhiForCausalLM", "qk_layernorm"),
        ("BloomForCausalLM", "apply_residual_connection_post_layernorm"),
        ("GemmaForCausalLM", "use_bidirectional_attention"),
    ],
)
def test_what_nothing_supports_is_refused(architecture: str, field: str) -> None:
    with pytest.raises(StartupError, match=field):
        read(
            architecture, hidden_size=64, num_attention_heads=4, num_hidden_layers=2,
            vocab_size=99, max_position_embeddings=64, **{field: True},
        )  # fmt: skip


def test_rotary_scaling_of_a_model_that_does_not_rotate_is_refused() -> None:
    with pytest.raises(StartupError, match="rope_scaling"):
        read(
            "BloomForCausalLM", n_embed=64, n_head=4, n_layer=2, vocab_size=99,
            rope_scaling={"rope_type": "linear", "factor": 2.0},
        )  # fmt: skip
