"""The one decoder. Which model it is stands in its spec; where keys lie is the backend's.

Common path only: what one family needs goes into the spec and the layers.
"""

from collections.abc import Callable

from torch import Tensor

from headrace.attention.base import AttentionBatch
from headrace.layers.attention import Attention, AttentionSpec
from headrace.layers.embedding import Embedding, Head
from headrace.layers.mlp import GatedMLP
from headrace.layers.norm import RMSNorm
from headrace.layers.operations import Angles
from headrace.layers.parameters import ParameterLoader
from headrace.layers.rope import RotaryEmbedding
from headrace.models.spec import DecoderSpec


class DecoderLayer:
    """Attention and MLP, each normalised before and added to the residual stream after."""

    def __init__(
        self,
        load: ParameterLoader,
        layer: int,
        spec: DecoderSpec,
        attention: AttentionSpec,
    ) -> None:
        prefix = f"model.layers.{layer}"
        norm = (spec.hidden_size, spec.norm_epsilon)
        self.attention_norm = RMSNorm(load, f"{prefix}.input_layernorm", *norm)
        self.attention = Attention(load, f"{prefix}.self_attn", layer, attention)
        self.mlp_norm = RMSNorm(load, f"{prefix}.post_attention_layernorm", *norm)
        self.mlp = GatedMLP(
            load,
            f"{prefix}.mlp",
            spec.hidden_size,
            spec.intermediate_size,
            spec.activation,
            bias=spec.mlp_bias,
        )

    def __call__(self, hidden: Tensor, angles: Angles, batch: AttentionBatch) -> Tensor:
        normed = self.attention_norm(hidden, self.attention.input_weight)
        hidden = self.attention(normed, hidden, angles, batch)
        normed = self.mlp_norm(hidden, self.mlp.input_weight)
        return self.mlp(normed, hidden)


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
        self.embedding = Embedding(load, "model.embed_tokens", spec.vocab_size, spec.hidden_size)
        self.operations = load.operations
        self.rotary = RotaryEmbedding(spec.rope, load.device)
        self.layers: list[DecoderLayer] = []
        for layer, attention in enumerate(spec.attention):
            progress(layer, len(spec.attention))
            self.layers.append(DecoderLayer(load, layer, spec, attention))
        self.norm = RMSNorm(load, "model.norm", spec.hidden_size, spec.norm_epsilon)
        self.head = Head(load, "lm_head", self.embedding, tied=spec.tied_embeddings)
        progress(len(spec.attention), len(spec.attention))
        self.weight_bytes = load.nbytes
        self.vocab_size = spec.vocab_size
        self.max_position = spec.max_position

    def forward(self, token_ids: Tensor, batch: AttentionBatch) -> Tensor:
        """token_ids [T] int32 or int64 to hidden states before the last norm [T, hidden_size].

        Writes the tokens' keys and values to the backend's cache.
        """
        angles = self.operations.angles(self.rotary, batch.positions)
        hidden = self.embedding(token_ids)
        for layer in self.layers:
            hidden = layer(hidden, angles, batch)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Rows of `forward`'s result [R, hidden_size] to logits [R, vocab_size] float32."""
        return self.head(self.norm(hidden, self.head.weight))
