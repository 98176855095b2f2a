"""Loading must not hold the model twice: not in copies, and not in mapped pages either."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import save_file

from headrace.kernels import dispatch
from tests.models.gguf_files import write_metadata

LAYERS, HIDDEN, INNER, KEY_VALUE, VOCABULARY = 17, 1024, 2816, 256, 8000
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
    "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-5, "max_position_embeddings": 512, "tie_word_embeddings": False,
    "head_dim": 64,
}  # fmt: skip
NORMS = ("input_layernorm", "post_attention_layernorm")
LINEARS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KEY_VALUE, HIDDEN),
    "self_attn.v_proj": (KEY_VALUE, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}  # fmt: skip


def shapes() -> dict[str, tuple[int, ...]]:
    """Of all parameters."""
    outer = ("model.embed_tokens", "lm_head")
    found: dict[str, tuple[int, ...]] = dict.fromkeys(outer, (VOCABULARY, HIDDEN))
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        found |= {prefix + name: shape for name, shape in LINEARS.items()}
        found |= {prefix + name: (HIDDEN,) for name in NORMS}
    return {f"{name}.weight": shape for name, shape in (found | {"model.norm": (HIDDEN,)}).items()}


def write_safetensors(folder: Path, dtype: torch.dtype) -> Path:
    tensors = {name: torch.ones(shape, dtype=dtype) for name, shape in shapes().items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"torch_dtype": str(dtype)[6:]}))
    return folder


def write_gguf(folder: Path, type: GGMLQuantizationType) -> Path:
    """Every number is zero."""
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    write_metadata(writer, SimpleNamespace(**CONFIG))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, shape in shapes().items():
        stored = type if len(shape) > 1 else GGMLQuantizationType.F32
        blocks = np.zeros(gguf.quant_shape_to_byte_shape(shape, stored), np.uint8)
        writer.add_tensor(names.get_name(name, (".weight",)), blocks, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


STORED: dict[str, Callable[[Path], Path]] = {
    "bfloat16": lambda folder: write_safetensors(folder, torch.bfloat16),
    "float32": lambda folder: write_safetensors(folder, torch.float32),
    "Q8_0": lambda folder: write_gguf(folder, GGMLQuantizationType.Q8_0),
}


@pytest.fixture(scope="module")
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return STORED[request.param](tmp_path_factory.mktemp("large"))


def measure(checkpoint: Path, kernels: str, dtype: str, num_ranks: int = 1) -> dict[str, float]:
    """Bytes of "weights" that stay and at the "peak", for the first of so many ranks."""
    if kernels == "native" and not any(dispatch.native_modules()):
        pytest.skip("no compiled kernels")
    arguments = [str(checkpoint), kernels, dtype, str(num_ranks)]
    command = [sys.executable, "-m", "tests.models.load_memory", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    report: dict[str, float] = json.loads(output)
    return report


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.slow
@needs_linux
@pytest.mark.parametrize("checkpoint", STORED, indirect=True)
@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_is_little_more_than_what_stays(checkpoint: Path, kernels: str, dtype: str) -> None:
    report = measure(checkpoint, kernels, dtype)
    assert report["weights"] > 150e6
    assert report["peak"] <= 1.1 * report["weights"], report


@pytest.mark.slow
@needs_linux
@pytest.mark.parametrize("checkpoint", ["bfloat16", "Q8_0"], indirect=True)
@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_a_rank_reads_only_its_part(checkpoint: Path, kernels: str) -> None:
    whole = measure(checkpoint, kernels, "float32")["weights"]
    report = measure(checkpoint, kernels, "float32", num_ranks=2)
    assert report["weights"] < 0.51 * whole
    assert report["peak"] <= 0.55 * whole, report
