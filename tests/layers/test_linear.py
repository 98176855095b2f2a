"""Fused linears, biases, accumulation, and what is said about weights that do not fit."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from headrace.attention.base import AttentionShape, LayerShape
from headrace.attention.paged import PagedBackend
from headrace.errors import CheckpointError
from headrace.layers.embedding import Embedding, EmbeddingSpec, Head, HeadSpec
from headrace.layers.linear import Linear
from headrace.layers.operations import TorchOperations
from headrace.layers.parameters import ParameterLoader
from headrace.quantization import SCHEMES, Target

SHAPE = AttentionShape(
    layers=(LayerShape(num_heads=1, num_kv_heads=1, head_size=8),),
    dtype=torch.float32,
    kv_dtype=torch.float32,
    device=torch.device("cpu"),
)


class Tensors(dict[str, Tensor]):
    """Weights in memory."""

    def has(self, name: str) -> bool:
        return name in self

    def get(self, name: str) -> Tensor:  # type: ignore[override]
        return self[name]

    def raw(self, name: str) -> None:
        return None


@pytest.fixture
def weights() -> Tensors:
    shapes = {"a.weight": (4, 6), "a.bias": (4,), "b.weight": (2, 6), "b.bias": (2,)}
    return Tensors({name: torch.randn(shape) for name, shape in shapes.items()})


def loader(weights: Tensors) -> ParameterLoader:
    options = {"dtype": torch.float32, "device": torch.device("cpu")}
    operations = TorchOperations(PagedBackend(SHAPE))
    return ParameterLoader(weights, SCHEMES["none"]({}, Target(**options)), operations, **options)


def separately(x: Tensor, weights: Tensors, names: Iterable[str], bias: bool) -> Tensor:
    return torch.cat(
        [x @ weights[f"{n}.weight"].T + bias * weights[f"{n}.bias"] for n in names], dim=-1
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
def test_fused_is_the_same_as_separate(weights: Tensors, bias: bool, accumulate: bool) -> None:
    linear = Linear(loader(weights), ["a", "b"], 6, [4, 2], bias=bias)
    x, residual = torch.randn(3, 6), torch.randn(3, 6)
    expected = separately(x, weights, "ab", bias) + (residual if accumulate else 0)
    torch.testing.assert_close(linear(x, residual if accumulate else None), expected)


def test_bytes_are_counted(weights: Tensors) -> None:
    load = loader(weights)
    Linear(load, ["a", "b"], 6, [4, 2], bias=True)
    assert load.nbytes == sum(tensor.nbytes for tensor in weights.values())


def test_wrong_size_is_named(weights: Tensors) -> None:
    with pytest.raises(CheckpointError, match=r"weights of a, b: expected \[7, 6\].*\[6, 6\]"):
        Linear(loader(weights), ["a", "b"], 6, [4, 3])
    with pytest.raises(CheckpointError, match=r"a.bias: expected shape \[5\], found \[4\]"):
        loader(weights).tensor("a.bias", (5,))


def test_matrix_of_integers_is_refused(weights: Tensors) -> None:
    weights["a.weight"] = torch.zeros(4, 6, dtype=torch.int32)
    with pytest.raises(CheckpointError, match="tensor a.weight: .* torch.int32"):
        Linear(loader(weights), ["a"], 6, [4])


def test_tied_head_shares_the_table_and_untied_does_not(weights: Tensors) -> None:
    weights["model.embed_tokens.weight"] = table = weights["a.weight"]
    load = loader(weights)
    embedding = Embedding(load, 4, 6, EmbeddingSpec(size=6))
    hidden = torch.randn(2, 6)
    tied = Head(load, embedding, HeadSpec(is_tied=True))
    torch.testing.assert_close(tied(hidden), hidden @ table.T)
    assert load.nbytes == table.nbytes
    weights["lm_head.weight"] = torch.randn(4, 6)
    untied = Head(load, embedding, HeadSpec(is_tied=False))
    torch.testing.assert_close(untied(hidden), hidden @ weights["lm_head.weight"].T)
    tokens = torch.tensor([3, 0])
    assert torch.equal(embedding(tokens, torch.arange(2)), table[[3, 0]])
