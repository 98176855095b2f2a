"""A causal language model of transformers, run on ragged batches over the paged cache."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from headrace.attention.base import AttentionBackend, AttentionBatch
from headrace.models.transformers.attention import (
    AttentionPass,
    LayerAttention,
    PagedPass,
    attending,
)


class TransformersModel:
    """Of the same shape as `models.decoder.Decoder`."""

    def __init__(
        self,
        model: PreTrainedModel,
        layers: list[LayerAttention],
        backend: AttentionBackend,
        *,
        vocab_size: int,
        max_position: int,
        weight_bytes: int,
    ) -> None:
        self._model = model
        self._head = head_of(model)
        self._layers = layers
        self._backend = backend
        self.vocab_size = vocab_size
        self.max_position = max_position
        self.weight_bytes = weight_bytes

    def forward(self, token_ids: Tensor, batch: AttentionBatch) -> Tensor:
        """token_ids [T] int32 or int64 to normalised hidden states of `batch`'s sampled tokens
        [R, hidden_size]."""
        paged = PagedPass(self._backend, self._layers, batch)
        return batch.of_sampled(hidden_states(self._model, token_ids, batch.positions, paged))

    def logits(self, hidden: Tensor) -> Tensor:
        """Rows of `forward`'s result [R, hidden_size] to logits [R, vocab_size] float32."""
        logits: Tensor = self._head(inputs_embeds=hidden.unsqueeze(0)).logits
        return logits[0].float()


def body_of(model: PreTrainedModel) -> nn.Module:
    """All but the head; `model` itself if that cannot be told.

    Some call a matrix of their head their decoder, which is what transformers finds then.
    """
    decoder = model.get_decoder()
    return decoder if isinstance(decoder, PreTrainedModel) else model.base_model


def hidden_states(
    model: PreTrainedModel, token_ids: Tensor, positions: Tensor, attention: AttentionPass
) -> Tensor:
    """Run all but the head over token_ids [T] at positions [T]; [T, hidden_size]."""
    with attending(attention):
        output = body_of(model)(
            input_ids=token_ids.long().unsqueeze(0),
            position_ids=positions.long().unsqueeze(0),
            use_cache=False,
        )
    states: Tensor = output.last_hidden_state
    return states[0]


class _States(MoeModelOutputWithPast):
    """Hidden states, and None for whatever else a head may ask of what lies below it."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


class _GivenStates(nn.Module):
    """In place of everything below the head: gives back the hidden states that it is given, or has
    a part at `path` that does, which some heads call."""

    def __init__(self, path: Sequence[str] = ()) -> None:
        super().__init__()
        if path:
            self.add_module(path[0], _GivenStates(path[1:]))

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> _States:
        return _States(last_hidden_state=inputs_embeds)


def head_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model with all but its head cut out, from hidden states ("inputs_embeds") to logits: a
    shallow copy, which shares the parameters.

    What models do to their logits (scales, soft caps) stands in their own forward, so that is
    what runs.
    """
    body, head = body_of(model), copy.copy(model)
    path = next(name for name, module in model.named_modules() if module is body)
    outermost, *rest = path.split(".")
    head.__dict__["_modules"] = {**model._modules, outermost: _GivenStates(rest)}
    return head
