"""Token ids to vectors, and vectors to logits; one matrix may serve both.

Both are split over ranks by token ids, so that one matrix still serves both and no rank keeps more
than its share: the price is one more sum over the ranks per pass, beside two for every layer.
"""

from dataclasses import dataclass

from torch import Tensor

from headrace.layers.linear import Linear
from headrace.layers.norm import Norm, NormSpec
from headrace.layers.operations import Activation
from headrace.layers.parameters import ParameterLoader
from headrace.quantization import LinearWeight


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpec:
    """How tokens enter the residual stream."""

    size: int
    """Of a token's vector; projected where it is not the model's (OPT)."""
    scale: float = 1.0
    norm: NormSpec | None = None
    num_positions: int = 0
    """Rows of a table of learned positions; 0: there is none."""


class Embedding:
    """[T] ids and positions to [T, hidden_size]."""

    def __init__(
        self, load: ParameterLoader, vocab_size: int, hidden_size: int, spec: EmbeddingSpec
    ) -> None:
        self.spec = spec
        self.vocabulary = load.shard.slice(vocab_size)
        self.weight = load.linear(
            ["model.embed_tokens"], spec.size, [vocab_size], outputs=[self.vocabulary]
        )
        self.operations = load.operations
        self.positions: LinearWeight | None = None
        self.projection: Linear | None = None
        self.norm: Norm | None = None
        if spec.num_positions:
            self.positions = load.linear(
                ["model.embed_positions"], hidden_size, [spec.num_positions]
            )
        if spec.size != hidden_size:
            self.projection = Linear(load, ["model.embed_projection"], spec.size, [hidden_size])
        if spec.norm is not None:
            self.norm = Norm(load, "model.embed_norm", hidden_size, spec.norm)

    def __call__(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        hidden = self.operations.embedding(
            token_ids, self.weight, self.spec.scale, vocabulary=self.vocabulary
        )
        if not self.vocabulary.is_whole:
            hidden = self.operations.all_reduce(hidden)
        if self.projection is not None:
            hidden = self.projection(self.operations.convert(hidden, self.projection.weight))
        if self.positions is not None:
            hidden = self.operations.embedding(positions, self.positions, residual=hidden)
        return hidden if self.norm is None else self.norm.residual(hidden)


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """How hidden states become logits."""

    is_tied: bool
    """The matrix is the embedding's."""
    bias: bool = False
    soft_cap: float | None = None
    """Logits become soft_cap * tanh(logit / soft_cap) (Gemma 2)."""


class Head:
    """[R, hidden_size] to logits [R, vocab_size], float32."""

    def __init__(self, load: ParameterLoader, embedding: Embedding, spec: HeadSpec) -> None:
        self.operations = load.operations
        self.vocabulary = embedding.vocabulary
        self.weight = embedding.weight
        self.bias: Tensor | None = None
        self.soft_cap = spec.soft_cap
        self.projection: Linear | None = None
        vocab_size, size = self.vocabulary.total, self.weight.in_features
        if not spec.is_tied:
            self.weight = load.linear(["lm_head"], size, [vocab_size], outputs=[self.vocabulary])
        if spec.bias:
            self.bias = load.tensor("lm_head.bias", (vocab_size,), share=self.vocabulary)
        if embedding.projection is not None:
            hidden_size = embedding.projection.weight.out_features
            self.projection = Linear(load, ["model.output_projection"], hidden_size, [size])

    @property
    def input_weight(self) -> LinearWeight:
        """The weight that reads the head's input."""
        return self.weight if self.projection is None else self.projection.weight

    def __call__(self, hidden: Activation) -> Tensor:
        if self.projection is not None:
            hidden = self.operations.convert(self.projection(hidden), self.weight)
        logits = self.operations.linear(hidden, self.weight, self.bias)
        if not self.vocabulary.is_whole:
            logits = self.operations.all_gather(logits, self.vocabulary)
        logits = logits.float()
        if self.soft_cap is None:
            return logits
        return self.operations.soft_cap(logits, self.soft_cap)
