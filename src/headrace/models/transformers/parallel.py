"""Which part of each linear layer a rank has, by the tensor-parallel plan of the model's own class.

A layer that the plan leaves out is on every rank as a whole.
"""

import re
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from headrace.distributed.ranks import Ranks
from headrace.errors import StartupError
from headrace.models.transformers.linear import SchemeLinear
from headrace.quantization import LinearWeight
from headrace.weights import Part, Slice

COLWISE, ROWWISE, GATHERED = "colwise", "rowwise", "colwise_gather_output"
WHOLE = {"embedding_rowwise", "replicated_with_grad_allreduce"}
"""What every rank may have as a whole: an embedding, and norms of single heads, whose collective is
for training."""


class RowwiseLinear(SchemeLinear):
    """Each rank has some of the inputs; the sum of what they give is the output."""

    def __init__(self, weight: LinearWeight, bias: nn.Parameter | None, ranks: Ranks) -> None:
        super().__init__(weight, None)
        self.bias = bias
        self._ranks = ranks

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.linear_weight.in_features)
        total = self._ranks.all_reduce(self.linear_weight.apply(rows, None, None))
        if self.bias is not None:
            total = total + self.bias
        return total.view(*x.shape[:-1], -1)


class GatheredLinear(SchemeLinear):
    """Each rank has some of the outputs; all get all of them."""

    def __init__(
        self, weight: LinearWeight, bias: nn.Parameter | None, ranks: Ranks, columns: Slice
    ) -> None:
        super().__init__(weight, bias)
        self._ranks = ranks
        self._columns = columns

    def forward(self, x: Tensor) -> Tensor:
        part = super().forward(x).flatten(0, -2)
        return self._ranks.all_gather(part, self._columns).view(*x.shape[:-1], -1)


@dataclass(frozen=True)
class Cut:
    """How one layer is cut."""

    style: str
    ranks: Ranks

    def part(self, layer: nn.Linear) -> Part:
        """Of the weight. Raises CheckpointError when it does not divide."""
        shard = self.ranks.shard
        even, whole = Slice(shard.rank, shard.rank + 1, shard.size), Slice.whole(1)
        if self.style == GATHERED:
            return Part(shard.slice(layer.out_features), whole)
        return Part(even, whole) if self.style == COLWISE else Part(whole, even)

    def layer(self, weight: LinearWeight, old: nn.Linear) -> nn.Module:
        """In place of `old`, over its part of the weight."""
        if self.style == ROWWISE:
            return RowwiseLinear(weight, old.bias, self.ranks)
        rows = self.part(old).rows
        bias = None if old.bias is None else nn.Parameter(old.bias[rows.of(old.out_features)])
        if self.style == GATHERED:
            return GatheredLinear(weight, bias, self.ranks, rows)
        return SchemeLinear(weight, bias)


def plan_cuts(model: PreTrainedModel, ranks: Ranks) -> dict[str, Cut]:
    """By name of a layer. Raises StartupError where the class has no plan, or one that this
    cannot follow."""
    if ranks.shard.size == 1:
        return {}
    _check_heads(model, ranks.shard.size)
    plan = {name: style for name, style in model.tp_plan.items() if style not in WHOLE}
    if ROWWISE not in plan.values():
        raise StartupError("--num-shard: its class has no tensor-parallel plan of its layers")
    cuts = {}
    # Experts are parameters without a layer of their own.
    for name, part in (*model.named_modules(remove_duplicate=False), *model.named_parameters()):
        style = plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", name))
        if style is None:
            continue
        if style not in (COLWISE, ROWWISE, GATHERED) or type(part) is not nn.Linear:
            raise StartupError(
                f"--num-shard: its class's tensor-parallel plan wants {style!r} of {name}, "
                f"which is {type(part).__name__}; only linear layers are cut here"
            )
        cuts[name] = Cut(style, ranks)
    return cuts


def _check_heads(model: PreTrainedModel, num_ranks: int) -> None:
    config = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if heads % num_ranks or kv_heads % num_ranks:
        raise StartupError(
            f"--num-shard {num_ranks}: its {heads} attention heads and {kv_heads} key-value heads "
            "cannot be shared evenly"
        )
