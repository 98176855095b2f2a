"""Loading must not hold the model twice: not in copies, and not in mapped pages either."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from headrace.kernels import dispatch

LAYERS, HIDDEN, INNER, KEY_VALUE, VOCABULARY = 14, 1024, 2816, 256, 8000
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
    "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-5, "max_position_embeddings": 512, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
LINEARS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KEY_VALUE, HIDDEN),
    "self_attn.v_proj": (KEY_VALUE, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 340 MB in bfloat16."""
    path = tmp_path_factory.mktemp("large")
    outer = {"model.embed_tokens": (VOCABULARY, HIDDEN), "lm_head": (VOCABULARY, HIDDEN)}
    shapes: dict[str, tuple[int, ...]] = {**outer, "model.norm": (HIDDEN,)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        shapes |= {prefix + name: shape for name, shape in LINEARS.items()}
        shapes |= {
            prefix + name: (HIDDEN,) for name in ("input_layernorm", "post_attention_layernorm")
        }
    tensors = {f"{name}.weight": torch.ones(s, dtype=torch.bfloat16) for name, s in shapes.items()}
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(CONFIG))
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kernels", "dtype", "limit"),
    [
        ("native", "float32", 1.1),
        ("native", "bfloat16", 1.1),
        ("torch", "bfloat16", 1.1),
        # Parts of fused matrices are converted before they are joined.
        ("torch", "float32", 1.3),
    ],
)
def test_peak_is_little_more_than_what_stays(
    kernels: str, dtype: str, limit: float, folder: Path
) -> None:
    if kernels == "native" and not any(dispatch.native_modules()):
        pytest.skip("no compiled kernels")
    command = [sys.executable, "-m", "tests.models.load_memory", str(folder), kernels, dtype]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    report = json.loads(output)
    assert report["weights"] > 250e6
    assert report["peak"] <= limit * report["weights"], report
