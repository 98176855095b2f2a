"""Linear layers and embeddings of a loaded model, put on a quantization scheme's weights.

This is where any model gets the CPU kernels, and where quantization on load takes hold.
"""

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from headrace.quantization import LinearWeight, Scheme
from headrace.weights import Part


class SchemeLinear(nn.Module):
    """In place of `nn.Linear`."""

    def __init__(self, weight: LinearWeight, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.linear_weight = weight
        self.weight = _stand_in(weight)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        rows = x.reshape(-1, self.linear_weight.in_features)
        return self.linear_weight.apply(rows, self.bias, None).unflatten(0, x.shape[:-1])


class SchemeEmbedding(nn.Module):
    """In place of `nn.Embedding`."""

    def __init__(self, weight: LinearWeight) -> None:
        super().__init__()
        self.linear_weight = weight
        self.weight = _stand_in(weight)

    def forward(self, token_ids: Tensor) -> Tensor:
        """[...] ids to [..., features]."""
        return self.linear_weight.lookup(token_ids.flatten()).view(*token_ids.shape, -1)


def _stand_in(weight: LinearWeight) -> nn.Parameter:
    """For models that ask a layer for its type, device or shape; takes no memory.

    Who computes with it gets NaN, which the trial at start-up finds.
    """
    nothing = torch.full((), math.nan).expand(weight.out_features, weight.in_features)
    return nn.Parameter(nothing, requires_grad=False)


class ModuleWeights:
    """`weights.Weights` over the parameters of a model that is in memory."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def has(self, name: str) -> bool:
        return name in dict(self._model.named_parameters())

    def get(self, name: str) -> Tensor:
        return self._model.get_parameter(name).detach()

    def raw(self, name: str) -> None:
        return None


class Cut(Protocol):
    """What of a linear layer a rank has; see `parallel.Cut`."""

    def part(self, layer: nn.Linear) -> Part: ...

    def layer(self, weight: LinearWeight, old: nn.Linear) -> nn.Module: ...


def adopt_linears(model: nn.Module, scheme: Scheme, cuts: Mapping[str, Cut] | None = None) -> None:
    """Replace each plain linear layer and embedding, one weight after another, so that no more
    than one is held twice. Subclasses have a forward of their own and stay as they are.

    `cuts`: of layers by name; one that shares its weight with another is kept whole.
    """
    users: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) in (nn.Linear, nn.Embedding):
            users.setdefault(id(module.weight), []).append(name)
    for names in users.values():
        cut = cuts.get(names[0]) if cuts and len(names) == 1 else None
        old = model.get_submodule(names[0])
        part = cut.part(old) if cut and isinstance(old, nn.Linear) else Part.whole()
        weight = scheme.load(ModuleWeights(model), names[:1], [part])
        for name in names:
            _replace(model, name, weight, cut)


def _replace(model: nn.Module, name: str, weight: LinearWeight, cut: Cut | None) -> None:
    old = model.get_submodule(name)
    new: nn.Module = SchemeEmbedding(weight)
    if isinstance(old, nn.Linear):
        new = cut.layer(weight, old) if cut else SchemeLinear(weight, old.bias)
    model.set_submodule(name, new)


def num_bytes(model: nn.Module) -> int:
    """Of all parameters, and of the weights that took the place of some."""
    weights = {
        id(module.linear_weight): module.linear_weight.nbytes
        for module in model.modules()
        if isinstance(module, SchemeLinear | SchemeEmbedding)
    }
    stored = {
        parameter.data_ptr(): parameter.untyped_storage().nbytes()
        for parameter in model.parameters()
    }
    return sum(weights.values()) + sum(stored.values())
