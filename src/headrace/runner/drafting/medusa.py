"""Medusa heads (Cai et al. 2024): each reads the last hidden state and predicts one token further.

The checkpoint's format is the authors': head i has residual blocks `i.j.linear`, and behind them an
output matrix `i.<number of blocks>` of its own, or shares the model's (as TGI's second version).
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from headrace.checkpoint.speculator import MedusaConfig
from headrace.layers.linear import Linear
from headrace.layers.parameters import ParameterLoader
from headrace.quantization import LinearWeight
from headrace.runner.drafting.base import Turn
from headrace.runner.drafting.states import LastStates
from headrace.types import RowOutput, StepPlan


class MedusaHead:
    """Normalised hidden states [n, H] to logits [n, V]."""

    def __init__(
        self,
        load: ParameterLoader,
        name: str,
        num_blocks: int,
        shared_output: LinearWeight | None,
        sizes: tuple[int, int],
    ) -> None:
        size, vocab_size = sizes
        self.blocks = [
            Linear(load, [f"{name}.{block}.linear"], size, [size], bias=True)
            for block in range(num_blocks)
        ]
        self.output = shared_output or load.linear([f"{name}.{num_blocks}"], size, [vocab_size])

    def __call__(self, states: Tensor) -> Tensor:
        for block in self.blocks:
            states = states + functional.silu(block.weight.apply(states, block.bias, None))
        return self.output.apply(states, None, None).float()


class Medusa:
    """See `drafting.base.Drafter`. What a head predicts does not depend on the draft before it."""

    def __init__(
        self,
        load: ParameterLoader,
        config: MedusaConfig,
        states: LastStates,
        shared_output: LinearWeight | None,
        sizes: tuple[int, int],
    ) -> None:
        """`shared_output`: the model's output matrix, where heads have none of their own;
        `sizes`: of hidden states and vocabulary."""
        self.max_num_drafts = config.medusa_num_heads
        self._last_states = states
        self._heads = [
            MedusaHead(load, str(head), config.medusa_num_layers, shared_output, sizes)
            for head in range(config.medusa_num_heads)
        ]
        self._states: Tensor

    def follow(self, plan: StepPlan, outputs: Sequence[RowOutput]) -> None:
        """Everything is in the last hidden state."""

    def limit(self, turns: Sequence[Turn]) -> list[Turn]:
        return list(turns)

    def begin(self, turns: Sequence[Turn], hidden: Tensor) -> None:
        self._states = self._last_states(turns, hidden)

    def logits(self, token_ids: list[int], depth: int) -> Tensor:
        return self._heads[depth](self._states[: len(token_ids)])
