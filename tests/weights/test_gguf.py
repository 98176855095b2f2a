"""Names, row order and raw blocks of GGUF tensors."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.gguf import GGUFFile
from headrace.errors import CheckpointError
from headrace.weights.gguf import FLOATS, GGUFWeights, unpermute
from headrace.weights.gguf_names import LAYER_NAMES, NAMES, OTHER_LAYER_NAMES, gguf_name
from tests.checkpoint.gguf_files import write_gguf
from tests.models.gguf_files import permute


def write(path: Path, architecture: str, **tensors: tuple[np.ndarray, str]) -> GGUFWeights:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_head_count(2)
    for name, (blocks, type) in tensors.items():
        writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType[type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GGUFWeights(GGUFFile(path))


@given(heads=st.integers(1, 5), half=st.integers(1, 6), columns=st.integers(1, 4))
def test_unpermute_undoes_the_converter(heads: int, half: int, columns: int) -> None:
    rows = np.arange(heads * 2 * half * columns).reshape(-1, columns)
    assert torch.equal(unpermute(torch.from_numpy(permute(rows, heads)), heads),
                       torch.from_numpy(rows))  # fmt: skip


@pytest.mark.parametrize("architecture", ["qwen3", *OTHER_LAYER_NAMES])
def test_every_name_is_llama_cpp_s(architecture: str) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], 4)
    inner = LAYER_NAMES if architecture == "qwen3" else OTHER_LAYER_NAMES[architecture]
    for name in [*NAMES, *(f"model.layers.3.{name}" for name in inner)]:
        parameter = f"{name}.weight"
        assert gguf_name(parameter, architecture) == (
            names.get_name(parameter, (".weight",)) or "output.weight"
        )
    assert gguf_name("model.layers.0.rotary_emb.inv_freq", architecture) is None


def test_raw_blocks_keep_their_bytes_in_restored_order(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(64, 96)).astype(np.float32)
    blocks = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.Q4_1)
    weights = write(
        tmp_path / "a.gguf", "llama", **{"blk.0.attn_q.weight": (permute(blocks, 2), "Q4_1")}
    )
    raw = weights.raw("model.layers.0.self_attn.q_proj.weight")
    assert raw.type.name == "Q4_1" and raw.shape == (64, 96)
    assert torch.equal(raw.data, torch.from_numpy(blocks))
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_1)
    values = weights.get("model.layers.0.self_attn.q_proj.weight")
    torch.testing.assert_close(values, torch.from_numpy(expected))


def test_other_architectures_are_not_permuted(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    weights = write(tmp_path / "a.gguf", "qwen2", **{"blk.0.attn_q.weight": (rows, "F32")})
    actual = weights.get("model.layers.0.self_attn.q_proj.weight")
    assert torch.equal(actual, torch.from_numpy(rows))


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=str)
def test_floats_stay_as_they_are_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = torch.randn(8, 4).to(dtype)
    type = next(type for type, stored in FLOATS.items() if stored == dtype)
    stored = rows.view(torch.uint8).numpy()
    weights = write(tmp_path / "a.gguf", "qwen2", **{"output.weight": (stored, type.name)})
    assert torch.equal(weights.get("lm_head.weight"), rows)
    assert weights.raw("lm_head.weight") is None


def test_experts_share_a_tensor_or_have_their_own(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 8, 4)).astype(np.float32)
    single = {f"blk.0.ffn_up.{expert}.weight": (rows[expert], "F32") for expert in range(3)}
    weights = write(
        tmp_path / "a.gguf", "qwen3moe", **{"blk.0.ffn_gate_exps.weight": (rows, "F32")}, **single
    )
    for expert in range(3):
        for kind in ("gate", "up"):
            found = weights.get(f"model.layers.0.mlp.experts.{expert}.{kind}_proj.weight")
            assert torch.equal(found, torch.from_numpy(rows[expert]))
    with pytest.raises(CheckpointError, match=r"ffn_gate_exps.weight .* has no expert 3"):
        weights.get("model.layers.0.mlp.experts.3.gate_proj.weight")
    assert not weights.has("model.layers.0.mlp.experts.3.up_proj.weight")


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    weights = write(
        tmp_path / "a.gguf",
        "llama",
        **{
            "output.weight": (np.zeros((2, 18), dtype=np.uint8), "IQ4_NL"),
            "blk.0.attn_q.weight": (np.zeros((6, 4), dtype=np.float32), "F32"),
        },
    )
    assert weights.has("lm_head.weight") and not weights.has("model.norm.weight")
    with pytest.raises(CheckpointError, match=r"no tensor 'output_norm.weight'"):
        weights.get("model.norm.weight")
    with pytest.raises(CheckpointError, match=r"output.weight has type IQ4_NL; readable are F32"):
        weights.get("lm_head.weight")
    with pytest.raises(CheckpointError, match=r"attn_q.weight has 6 rows"):
        weights.get("model.layers.0.self_attn.q_proj.weight")


def test_a_model_in_several_files(tmp_path: Path) -> None:
    tensors = {f"blk.{layer}.ffn_norm.weight": np.full(64, layer, np.float32) for layer in (0, 1)}
    write_gguf(tmp_path / "model.gguf", tensors=tensors, split_max_tensors=1)
    first, *others = sorted(tmp_path.iterdir())
    assert first.name == "model-00001-of-00003.gguf" and len(others) == 2
    checkpoint = open_checkpoint(first)
    assert open_checkpoint(tmp_path).weight_files == checkpoint.weight_files == (first, *others)
    assert checkpoint.gguf is not None
    weights = GGUFWeights(checkpoint.gguf)
    for layer in (0, 1):
        found = weights.get(f"model.layers.{layer}.post_attention_layernorm.weight")
        assert torch.equal(found, torch.full((64,), float(layer)))
    with pytest.raises(CheckpointError, match="is one of 3 parts; open the first"):
        open_checkpoint(first.rename(tmp_path / "renamed.gguf"))
    (tmp_path / "renamed.gguf").rename(first)
    others[1].unlink()
    with pytest.raises(CheckpointError, match="model-00003-of-00003.gguf: cannot be read"):
        open_checkpoint(first)
    others[1].write_bytes(others[0].read_bytes())
    with pytest.raises(CheckpointError, match="'blk.0.ffn_norm.weight' is in another part too"):
        open_checkpoint(first)
