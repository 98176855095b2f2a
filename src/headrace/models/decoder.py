"""The one decoder. Which model it is stands in its spec; where keys lie is the backend's.

Common path only: what one family needs goes into the spec and the layers. The names of parameters
are Llama's; `Naming` tells where a checkpoint has others.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from headrace.attention.base import AttentionBatch
from headrace.layers.attention import Attention, AttentionSpec
from headrace.layers.embedding import Embedding, Head
from headrace.layers.latent import LatentAttention, LatentAttentionSpec
from headrace.layers.linear import Linear
from headrace.layers.mlp import MLP, MLPSpec
from headrace.layers.moe import MoE, MoESpec
from headrace.layers.norm import Norm
from headrace.layers.operations import Activation, Angles
from headrace.layers.parameters import ParameterLoader
from headrace.layers.rope import RopeSpec, RotaryEmbedding
from headrace.models.spec import DecoderSpec, LayerSpec
from headrace.quantization import LinearWeight


class DecoderLayer:
    """Attention and MLP, each added to the residual stream. See `LayerSpec` for the norms."""

    def __init__(
        self, load: ParameterLoader, layer: int, hidden_size: int, spec: LayerSpec
    ) -> None:
        prefix = f"model.layers.{layer}"
        self.spec = spec
        self.operations = load.operations
        self.attention = _attention(load, f"{prefix}.self_attn", layer, spec.attention)
        self.mlp = _mlp(load, f"{prefix}.mlp", hidden_size, spec.mlp)

        def norm(name: str, *placements: str) -> Norm | None:
            if spec.placement not in placements:
                return None
            return Norm(load, f"{prefix}.{name}", hidden_size, spec.norm)

        self.attention_norm = norm("input_layernorm", "before", "both")
        self.mlp_norm = norm("post_attention_layernorm", "before", "both")
        self.attention_output_norm = norm("attention_output_norm", "after", "both", "sum")
        self.mlp_output_norm = norm("mlp_output_norm", "after", "both", "sum")

    def __call__(
        self, hidden: Tensor, angles: Mapping[RopeSpec, Angles], batch: AttentionBatch
    ) -> Tensor:
        rope, weight = self.spec.attention.rope, self.attention.input_weight
        rotation = None if rope is None else angles[rope]
        read = self._input(hidden, self.attention_norm, weight)
        attended = self.attention(read, rotation, batch)
        hidden = self.operations.sampled(hidden, batch)
        if self.spec.is_parallel:
            read = self._input(hidden, self.mlp_norm, self.mlp.input_weight)
        hidden = self._add(self.attention.output, attended, hidden, self.attention_output_norm)
        if not self.spec.is_parallel:
            read = self._input(hidden, self.mlp_norm, self.mlp.input_weight)
        return self._add(self.mlp, read, hidden, self.mlp_output_norm)

    def _input(
        self, hidden: Tensor, norm: Norm | None, consumer: LinearWeight | None
    ) -> Activation:
        if norm is None:
            return self.operations.convert(hidden, consumer)
        return norm(hidden, consumer)

    def _add(
        self, layer: Linear | MLP | MoE, read: Activation, hidden: Tensor, norm: Norm | None
    ) -> Tensor:
        if norm is None:
            return layer(read, hidden)
        if self.spec.placement == "sum":
            return norm.residual(layer(read, hidden))
        return norm.residual(layer(read, None), hidden)


def _attention(
    load: ParameterLoader, prefix: str, layer: int, spec: AttentionSpec
) -> Attention | LatentAttention:
    if isinstance(spec, LatentAttentionSpec):
        return LatentAttention(load, prefix, layer, spec)
    return Attention(load, prefix, layer, spec)


def _mlp(
    load: ParameterLoader, prefix: str, hidden_size: int, spec: MLPSpec | MoESpec
) -> MLP | MoE:
    if isinstance(spec, MoESpec):
        return MoE(load, prefix, hidden_size, spec)
    return MLP(load, prefix, hidden_size, spec)


class Decoder:
    """Token ids to hidden states to logits, for a ragged batch (see `AttentionBatch`)."""

    def __init__(
        self,
        spec: DecoderSpec,
        load: ParameterLoader,
        progress: Callable[[int, int], None],
    ) -> None:
        """Loads all parameters; `progress` is told how many layers of how many are loaded."""
        self.spec = spec
        self.operations = load.operations
        # The largest matrices first, while little else is in memory.
        self.embedding = Embedding(load, spec.vocab_size, spec.hidden_size, spec.embedding)
        self.head = Head(load, self.embedding, spec.head)
        ropes = {layer.attention.rope for layer in spec.layers}
        self.rotary = {
            rope: RotaryEmbedding(rope, load.device, spec.max_position) for rope in ropes if rope
        }
        self.layers: list[DecoderLayer] = []
        for layer, layer_spec in enumerate(spec.layers):
            progress(layer, len(spec.layers))
            self.layers.append(DecoderLayer(load, layer, spec.hidden_size, layer_spec))
        self.norm: Norm | None = None
        if spec.norm is not None:
            self.norm = Norm(load, "model.norm", spec.hidden_size, spec.norm)
        progress(len(spec.layers), len(spec.layers))
        self.weight_bytes = load.nbytes
        self.vocab_size = spec.vocab_size
        self.max_position = spec.max_position

    def forward(self, token_ids: Tensor, batch: AttentionBatch) -> Tensor:
        """token_ids [T] int32 or int64 to hidden states before the last norm of `batch`'s sampled
        tokens [R, hidden_size].

        Writes all tokens' keys and values to the backend's cache. Nobody reads more of the last
        layer but what it makes of the sampled tokens.
        """
        angles = {
            rope: self.operations.angles(rotary, batch.positions)
            for rope, rotary in self.rotary.items()
        }
        hidden = self.embedding(token_ids, batch.positions)
        *layers, last = self.layers
        whole = replace(batch, sampled=None)
        for layer in layers:
            hidden = layer(hidden, angles, whole)
        return last(hidden, angles, batch)

    def logits(self, hidden: Tensor) -> Tensor:
        """Rows of `forward`'s result [R, hidden_size] to logits [R, vocab_size] float32."""
        consumer = self.head.input_weight
        if self.norm is None:
            return self.head(self.operations.convert(hidden, consumer))
        return self.head(self.norm(hidden, consumer))
