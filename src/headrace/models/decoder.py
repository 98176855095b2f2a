"""The one decoder. Which model it is stands in its spec; where keys lie is the backend's.

Common path only: what one family needs goes into the spec and the layers.
"""

from collections.abc import Callable

from torch import Tensor

from headrace.attention.base import AttentionBackend, AttentionBatch
from headrace.layers.attention import Attention, AttentionSpec
from headrace.layers.embedding import Embedding, Head
from headrace.layers.mlp import GatedMLP
from headrace.layers.norm import RMSNorm
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
        backend: AttentionBackend,
    ) -> None:
        prefix = f"model.layers.{layer}"
        size = (spec.hidden_size,)
        self.attention_norm = RMSNorm(
            load.tensor(f"{prefix}.input_layernorm.weight", size), spec.norm_epsilon
        )
        self.attention = Attention(load, f"{prefix}.self_attn", layer, attention, backend)
        self.mlp_norm = RMSNorm(
            load.tensor(f"{prefix}.post_attention_layernorm.weight", size), spec.norm_epsilon
        )
        self.mlp = GatedMLP(
            load,
            f"{prefix}.mlp",
            spec.hidden_size,
            spec.intermediate_size,
            spec.activation,
            bias=spec.mlp_bias,
        )

    def __call__(
        self, hidden: Tensor, rotary: tuple[Tensor, Tensor], batch: AttentionBatch
    ) -> Tensor:
        hidden = self.attention(self.attention_norm(hidden), hidden, rotary, batch)
        return self.mlp(self.mlp_norm(hidden), hidden)


class Decoder:
    """Token ids to hidden states to logits, for a ragged batch (see `AttentionBatch`)."""

    def __init__(
        self,
        spec: DecoderSpec,
        load: ParameterLoader,
        backend: AttentionBackend,
        progress: Callable[[int, int], None],
    ) -> None:
        """Loads all parameters; `progress` is told how many layers of how many are loaded."""
        self.spec = spec
        self.embedding = Embedding(load, "model.embed_tokens", spec.vocab_size, spec.hidden_size)
        self.rotary = RotaryEmbedding(spec.rope, self.embedding.table.device)
        self.layers: list[DecoderLayer] = []
        for layer, attention in enumerate(spec.attention):
            progress(layer, len(spec.attention))
            self.layers.append(DecoderLayer(load, layer, spec, attention, backend))
        self.norm = RMSNorm(
            load.tensor("model.norm.weight", (spec.hidden_size,)), spec.norm_epsilon
        )
        self.head = Head(load, "lm_head", self.embedding, tied=spec.tied_embeddings)
        progress(len(spec.attention), len(spec.attention))
        self.weight_bytes = load.nbytes

    def forward(self, token_ids: Tensor, batch: AttentionBatch) -> Tensor:
        """token_ids [T] int32 or int64 to hidden states before the last norm [T, hidden_size].

        Writes the tokens' keys and values to the backend's cache.
        """
        rotary = self.rotary(batch.positions)
        hidden = self.embedding(token_ids)
        for layer in self.layers:
            hidden = layer(hidden, rotary, batch)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Rows of `forward`'s result [R, hidden_size] to logits [R, vocab_size] float32."""
        return self.head(self.norm(hidden))
