"""Hidden states of some windows of text on their way through the decoder, layer by layer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from headrace.attention.base import AttentionBackend, AttentionBatch
from headrace.models.decoder import Decoder, DecoderLayer

LOGIT_ROWS = 128
"""Tokens whose logits are computed at once."""


class LayerInput:
    """Stands in place of all layers and keeps what the first one is called with."""

    def __init__(self) -> None:
        self.hidden: Tensor
        self.rest: tuple[Any, ...]
        """Angles and batch."""

    def __call__(self, hidden: Tensor, *rest: Any) -> Tensor:
        self.hidden, self.rest = hidden, rest
        return hidden


@dataclass
class WindowState:
    """One window between two layers."""

    token_ids: Tensor
    """[T]."""
    hidden: Tensor
    """[T, hidden_size] float32."""
    rest: tuple[Any, ...]


class Activations:
    """Of several windows, in front of the same layer.

    Windows go through the layers one by one, so that the backend's cache is that of one.
    """

    def __init__(
        self, decoder: Decoder, backend: AttentionBackend, windows: Sequence[Sequence[int]]
    ) -> None:
        self.windows = [_begin(decoder, backend, window) for window in windows]

    def advance(self, layer: DecoderLayer) -> None:
        """Through the layer."""
        for window in self.windows:
            window.hidden = layer(window.hidden, *window.rest)

    def show(self, layer: DecoderLayer) -> None:
        """Let the layer's linears see their inputs, and stay."""
        for window in self.windows:
            layer(window.hidden.clone(), *window.rest)

    def perplexity(self, decoder: Decoder) -> float:
        """Of all windows together, after the last layer."""
        loss, count = 0.0, 0
        for window in self.windows:
            following = window.token_ids[1:].split(LOGIT_ROWS)
            rows = window.hidden[:-1].split(LOGIT_ROWS)
            for hidden, targets in zip(rows, following, strict=True):
                logits = decoder.logits(hidden)
                loss += float(functional.cross_entropy(logits, targets, reduction="sum"))
            count += len(window.token_ids) - 1
        return math.exp(loss / count)


def _begin(decoder: Decoder, backend: AttentionBackend, token_ids: Sequence[int]) -> WindowState:
    layers, catcher = decoder.layers, LayerInput()
    ids = torch.tensor(token_ids)
    decoder.layers = cast(list[DecoderLayer], [catcher])
    try:
        decoder.forward(ids, _batch(len(token_ids), backend.block_size))
    finally:
        decoder.layers = layers
    return WindowState(ids, catcher.hidden, catcher.rest)


def _batch(length: int, block_size: int) -> AttentionBatch:
    """One sequence from its beginning, in the first blocks of the cache."""
    positions = torch.arange(length, dtype=torch.int32)
    ends = torch.tensor([0, length], dtype=torch.int32)
    return AttentionBatch(
        positions=positions,
        slot_mapping=positions.long(),
        query_start=ends,
        context_lens=ends[1:],
        block_table=torch.arange(-(-length // block_size), dtype=torch.int32).unsqueeze(0),
        max_query_len=length,
        max_context_len=length,
    )
