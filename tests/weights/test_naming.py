"""Names, fused layers and reordered rows of checkpoints."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from headrace.checkpoint.ggml import GGMLType
from headrace.errors import CheckpointError
from headrace.weights.base import RawTensor
from headrace.weights.naming import (
    Naming,
    RenamedWeights,
    Source,
    deinterleaved,
    every_other,
    grouped_heads,
    part,
)

NAMING = Naming(
    base="transformer.",
    layers="h.",
    inner={
        "self_attn.q_proj": Source("attn.qkv", part(0, 4)),
        "self_attn.k_proj": Source("attn.qkv", part(4, 2)),
        "mlp.up_proj": Source("mlp.fc", is_transposed=True),
        "self_attn.q_norm": Source("attn.norms.{}", num_parts=2),
        "mlp.experts.1.up_proj": Source(
            "mlp.up", every_other(1), is_transposed=True, expert=1, is_parameter=True
        ),
        "mlp.experts.4.up_proj": Source("mlp.up", expert=4, is_parameter=True),
    },
    outer={"embed_tokens": "wte"},
    head="embed_out",
)


class Stored(dict[str, Tensor]):
    """A checkpoint in memory; matrices of bytes are blocks."""

    def has(self, name: str) -> bool:
        return name in self

    def get(self, name: str) -> Tensor:  # type: ignore[override]
        tensor = self[name]
        return tensor if tensor.dtype == torch.uint8 else tensor.float()

    def raw(self, name: str) -> RawTensor | None:
        data = self[name]
        if data.dtype != torch.uint8:
            return None
        return RawTensor(GGMLType.Q8_0, data, (len(data), 32))


def renamed(**stored: Tensor) -> RenamedWeights:
    names = {name.replace("__", "."): tensor for name, tensor in stored.items()}
    return RenamedWeights(Stored(names), NAMING)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("model.layers.3.mlp.down_proj", "transformer.h.3.mlp.down_proj"),
        ("model.layers.12.self_attn.q_proj", "transformer.h.12.attn.qkv"),
        ("model.embed_tokens", "transformer.wte"),
        ("model.norm", "transformer.norm"),
        ("lm_head", "embed_out"),
    ],
)
def test_names(ours: str, theirs: str) -> None:
    assert NAMING.source(ours).name == theirs


def test_files_of_the_bare_model_lack_the_prefix() -> None:
    """As gpt2's and bloom's on the hub."""
    table = torch.randn(3, 2)
    for name in ("transformer__wte__weight", "wte__weight"):
        assert torch.equal(renamed(**{name: table}).get("model.embed_tokens.weight"), table)


def test_missing_tensors_are_known_by_the_checkpoint_s_name() -> None:
    weights = renamed(wte__weight=torch.ones(1, 1))
    assert weights.has("model.embed_tokens.weight")
    assert not weights.has("model.layers.0.mlp.up_proj.weight")
    with pytest.raises(KeyError, match="transformer.h.0.mlp.fc.weight"):
        weights.get("model.layers.0.mlp.up_proj.weight")


def test_parts_of_weights_biases_and_blocks() -> None:
    fused, bias = torch.randn(6, 32), torch.randn(6)
    weights = renamed(transformer__h__0__attn__qkv__weight=fused,
                      transformer__h__0__attn__qkv__bias=bias)  # fmt: skip
    name = "model.layers.0.self_attn.k_proj"
    assert torch.equal(weights.get(f"{name}.weight"), fused[4:])
    assert torch.equal(weights.get(f"{name}.bias"), bias[4:])
    assert weights.raw(f"{name}.weight") is None
    blocks = torch.randint(256, (6, 34), dtype=torch.uint8)
    raw = renamed(transformer__h__0__attn__qkv__weight=blocks).raw(f"{name}.weight")
    assert raw is not None and raw.shape == (2, 32) and torch.equal(raw.data, blocks[4:])


def test_transposed_and_stacked() -> None:
    stored = torch.randn(3, 5)
    weights = renamed(
        h__0__mlp__fc__weight=stored,
        h__0__attn__norms__0__weight=stored[0],
        h__0__attn__norms__1__weight=stored[1],
    )
    up = weights.get("model.layers.0.mlp.up_proj.weight")
    assert torch.equal(up, stored.t()) and up.is_contiguous()
    assert torch.equal(weights.get("model.layers.0.self_attn.q_norm.weight"), stored[:2])


def test_experts_in_one_tensor() -> None:
    stored, bias = torch.randn(3, 5, 6), torch.randn(3, 6)
    blocks = torch.randint(255, (3, 6, 2, 16), dtype=torch.uint8)
    weights = renamed(h__0__mlp__up=stored, h__0__mlp__up_bias=bias, h__0__mlp__up_blocks=blocks)
    name = "model.layers.0.mlp.experts.1.up_proj"
    assert torch.equal(weights.get(f"{name}.weight"), stored[1, :, 1::2].t())
    assert torch.equal(weights.get(f"{name}.bias"), bias[1, 1::2])
    assert torch.equal(weights.get(f"{name}.blocks"), blocks[1, 1::2])
    assert weights.has(f"{name}.bias") and not weights.has(f"{name}.scales")
    with pytest.raises(CheckpointError, match=r"mlp.up: shape \[3, 5, 6\] does not fit"):
        weights.get("model.layers.0.mlp.experts.4.up_proj.weight")


def test_rows_that_do_not_fit_are_named() -> None:
    weights = renamed(transformer__h__0__attn__qkv__weight=torch.ones(5, 2))
    with pytest.raises(CheckpointError, match=r"attn.qkv: shape \[5, 2\] does not fit"):
        weights.get("model.layers.0.self_attn.k_proj.weight")


def test_rows_of_packed_tensors_are_refused() -> None:
    weights = renamed(transformer__h__0__attn__qkv__qweight=torch.ones(5, 2))
    with pytest.raises(CheckpointError, match="attn.qkv.qweight"):
        weights.get("model.layers.0.self_attn.k_proj.qweight")


@given(groups=st.integers(1, 3), queries=st.integers(1, 4), size=st.integers(1, 4))
def test_grouped_heads(groups: int, queries: int, size: int) -> None:
    """Each element says which group, head and row it is of."""
    shape = (groups, queries + 2, size)
    labels = torch.cartesian_prod(*(torch.arange(n) for n in shape)).view(-1, 3)
    picked = grouped_heads(groups, queries + 2, queries, 1)(labels)
    assert picked.tolist() == [[g, queries, i] for g in range(groups) for i in range(size)]


@given(heads=st.integers(1, 3), half=st.integers(1, 4), rest=st.integers(0, 3))
def test_deinterleaved(heads: int, half: int, rest: int) -> None:
    size = 2 * half + rest
    rows = torch.arange(heads * size)
    order = [*range(0, 2 * half, 2), *range(1, 2 * half, 2), *range(2 * half, size)]
    expected = [head * size + i for head in range(heads) for i in order]
    assert deinterleaved(heads, 2 * half)(rows).tolist() == expected
