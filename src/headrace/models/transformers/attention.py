"""The attention function that transformers' layers call on our behalf.

Whoever runs a forward pass does so inside `attending`; every layer's attention ends up there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from headrace.attention.base import AttentionBackend, AttentionBatch, AttentionOptions, LayerShape

NAME = "headrace"
"""Under which transformers finds the function. It has no mask function of that name, so that
models build no masks."""
OTHER_ATTENTION = "its attention does not go through transformers' attention interface"
"""Why such a model is refused."""


class AttentionPass(Protocol):
    """Computes the attention of all layers in one forward pass, in the order of their calls."""

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, asked: dict[str, Any]
    ) -> Tensor:
        """query [T, heads, D], key [T, kv_heads, D], value [T, kv_heads, E], and what else
        `module` passes to its attention; returns [T, heads, E]."""
        ...


_running: ContextVar[AttentionPass] = ContextVar("attention_pass")


@contextmanager
def attending(attention: AttentionPass) -> Iterator[None]:
    """Layers that run inside attend with `attention`; passes do not nest.

    A context, since not every model hands keyword arguments down to its attention.
    """
    assert _running.get(None) is None
    token = _running.set(attention)
    try:
        yield
    finally:
        _running.reset(token)


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    **asked: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [1, heads, T, D] to [1, T, heads, E]."""
    query, key, value = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    asked["attention_mask"] = attention_mask
    return _running.get().attend(module, query, key, value, asked).unsqueeze(0), None


AttentionInterface.register(NAME, attention_forward)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerAttention:
    """The sizes and options of one layer."""

    num_heads: int
    num_kv_heads: int
    key_size: int
    value_size: int
    options: AttentionOptions

    @property
    def head_size(self) -> int:
        """In the cache; the narrower of keys and values is padded with zeros to it."""
        return max(self.key_size, self.value_size)

    @property
    def shape(self) -> LayerShape:
        return LayerShape(
            num_heads=self.num_heads, num_kv_heads=self.num_kv_heads, head_size=self.head_size
        )


class PagedPass:
    """One step's attention over the paged cache; the cache's layers are the calls in order."""

    def __init__(
        self, backend: AttentionBackend, layers: list[LayerAttention], batch: AttentionBatch
    ) -> None:
        self._backend = backend
        self._layers = enumerate(layers)
        self._batch = batch

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, asked: dict[str, Any]
    ) -> Tensor:
        index, layer = next(self._layers)
        query, key, value = (_widen(x, layer.head_size) for x in (query, key, value))
        output = self._backend.forward(index, query, key, value, self._batch, layer.options)
        return output.view(len(query), layer.num_heads, -1)[..., : layer.value_size]


def _widen(x: Tensor, size: int) -> Tensor:
    missing = size - x.shape[-1]
    return functional.pad(x, (0, missing)) if missing else x
