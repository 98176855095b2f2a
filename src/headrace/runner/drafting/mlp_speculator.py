"""IBM's MLP speculator (Wertheimer et al. 2024): a small recurrent chain on the last hidden state.

The state takes in each drafted token, and shrinks so that the hidden state still makes half of its
variance at the last one. Names and arithmetic are those of the published checkpoints.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from headrace.checkpoint.speculator import MLPSpeculatorConfig
from headrace.layers.operations import NormParameters, normalize
from headrace.layers.parameters import ParameterLoader
from headrace.runner.drafting.base import Turn
from headrace.runner.drafting.states import LastStates
from headrace.types import RowOutput, StepPlan

EPSILON = 1e-6


class SpeculatorStage:
    """Predicts one token from the state [n, in] and the token before it."""

    def __init__(self, load: ParameterLoader, config: MLPSpeculatorConfig, depth: int) -> None:
        """`depth` of the token that it predicts, 0 for the first."""
        inner = config.inner_dim or config.emb_dim
        in_features = inner if depth else config.emb_dim
        self.embedding = load.linear([f"speculator.emb.{depth}"], inner, [config.vocab_size])
        self.projection = load.linear([f"speculator.proj.{depth}"], in_features, [inner])
        weight, bias = (
            load.tensor(f"speculator.ln.{depth}.{name}", (inner,)) for name in ("weight", "bias")
        )
        self.norm = NormParameters("rms", EPSILON, weight, bias)
        self.head = load.linear([f"speculator.head.{depth}"], inner, [config.vocab_size])
        self.state_scale = 0.5 ** (0.5 / config.n_predict)
        self.token_scale = math.sqrt((1 - self.state_scale**2) * inner / 2)

    def tied(self, load: ParameterLoader) -> "SpeculatorStage":
        """The stage of all later tokens, which shares everything but the projection."""
        stage = copy.copy(self)
        inner = self.head.in_features
        stage.projection = load.linear(["speculator.proj.1"], inner, [inner])
        return stage

    def __call__(self, states: Tensor, token_ids: Tensor) -> Tensor:
        """The next states [n, inner]."""
        projected = self.projection.apply(states, None, None) * self.state_scale
        mixed = projected + self.embedding.lookup(token_ids) * self.token_scale
        return functional.gelu(normalize(mixed, self.norm))


def _stages(load: ParameterLoader, config: MLPSpeculatorConfig) -> list[SpeculatorStage]:
    """One per drafted token."""
    count = config.n_predict
    if not config.tie_weights:
        return [SpeculatorStage(load, config, depth) for depth in range(count)]
    first = SpeculatorStage(load, config, 0)
    return [first] + ([first.tied(load)] * (count - 1) if count > 1 else [])


class MLPSpeculator:
    """See `drafting.base.Drafter`."""

    def __init__(
        self, load: ParameterLoader, config: MLPSpeculatorConfig, states: LastStates
    ) -> None:
        self.max_num_drafts = config.n_predict
        self._last_states = states
        self._scales_input = config.scale_input
        self._stages = _stages(load, config)
        self._states: Tensor

    def follow(self, plan: StepPlan, outputs: Sequence[RowOutput]) -> None:
        """Everything is in the last hidden state."""

    def limit(self, turns: Sequence[Turn]) -> list[Turn]:
        return list(turns)

    def begin(self, turns: Sequence[Turn], hidden: Tensor) -> None:
        self._states = self._last_states(turns, hidden)
        if self._scales_input:
            size = self._states.shape[1:]
            self._states = functional.rms_norm(self._states, size, eps=EPSILON) / math.sqrt(2)

    def logits(self, token_ids: list[int], depth: int) -> Tensor:
        stage = self._stages[depth]
        ids = torch.tensor(token_ids, device=self._states.device)
        self._states = stage(self._states[: len(token_ids)], ids)
        return stage.head.apply(self._states, None, None).float()
