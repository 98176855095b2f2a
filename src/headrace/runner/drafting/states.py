"""The hidden states that heads on top of the target model read."""

from collections.abc import Sequence

import torch
from torch import Tensor

from headrace.layers.operations import NormParameters, normalize
from headrace.runner.drafting.base import Turn


class LastStates:
    """What each row's newest token was sampled from, normalised as for the model's own head."""

    def __init__(self, norm: NormParameters | None) -> None:
        """`norm`: the model's last one."""
        self._norm = norm

    def __call__(self, turns: Sequence[Turn], hidden: Tensor) -> Tensor:
        """hidden [R, H] of the sampled positions, before the last norm, to [len(turns), H]."""
        index = torch.tensor([turn.state for turn in turns], device=hidden.device)
        states = hidden[index]
        return states if self._norm is None else normalize(states, self._norm)
