"""A base model's weights with a LoRA adapter merged into them, tensor by tensor as they are read.

W' = W + scale B A in float32, rounded to W's dtype (Hu et al. 2021). Tensors that the adapter has
whole (`modules_to_save`, trained biases) replace the base's.
"""

import re
from dataclasses import dataclass

from torch import Tensor

from headrace.checkpoint.peft import LoraAdapter
from headrace.errors import CheckpointError
from headrace.weights.base import RawTensor, Weights
from headrace.weights.pytorch import PytorchWeights
from headrace.weights.safetensors import SafetensorsWeights

PREFIX = "base_model.model."
FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(\.\w+)?(?<!\.bias)(\.weight)?")
WRAPPER = re.compile(r"\.(base_layer|modules_to_save(\.\w+)?)(?=\.)")
"""What `peft` puts between a module's name and that of a tensor which it keeps whole."""


@dataclass(slots=True)
class LoraFactors:
    """Names of one module's factors in the adapter's file."""

    module: str
    is_embedding: bool
    a: str = ""
    """Of the matrix [rank, in_features]."""
    b: str = ""
    """Of the matrix [out_features, rank]."""


class LoraWeights:
    """See `Weights`. Raises CheckpointError where the adapter does not fit the base."""

    def __init__(self, base: Weights, adapter: LoraAdapter) -> None:
        self._base = base
        self._adapter = adapter
        files = [adapter.weights]
        is_safe = adapter.weights.suffix == ".safetensors"
        self._tensors = SafetensorsWeights(files) if is_safe else PytorchWeights(files)
        self._factors: dict[str, LoraFactors] = {}
        """By name of the base's parameter."""
        self._whole: dict[str, str] = {}
        for key in self._tensors.names:
            self._sort(key)
        self._check()

    def has(self, name: str) -> bool:
        return name in self._whole or self._base.has(name)

    def get(self, name: str) -> Tensor:
        whole = self._whole.get(name)
        stored = self._base.get(name) if whole is None else self._tensors.get(whole)
        if name not in self._factors:
            return stored
        delta = self._delta(self._factors[name])
        if delta.shape != stored.shape:
            raise CheckpointError(
                f"{self._adapter.weights}: changes {name} of shape {list(stored.shape)} "
                f"by {list(delta.shape)}"
            )
        return delta.add_(stored).to(stored.dtype)

    def raw(self, name: str) -> RawTensor | None:
        is_changed = name in self._whole or name in self._factors
        return None if is_changed else self._base.raw(name)

    def _sort(self, key: str) -> None:
        """Note one tensor of the adapter under the parameter that it changes."""
        name = key.removeprefix(PREFIX)
        match = FACTOR.fullmatch(name)
        if match is None:
            self._whole[WRAPPER.sub("", name)] = key
            return
        module = match[1]
        found = self._factors.setdefault(
            f"{module}.weight", LoraFactors(module, is_embedding=match[2] is not None)
        )
        if match[3] == "A":
            found.a = key
        else:
            found.b = key

    def _check(self) -> None:
        for name, factors in self._factors.items():
            if not (factors.a and factors.b):
                raise CheckpointError(f"{self._adapter.weights}: {name} lacks lora_A or lora_B")
            if not self._base.has(name):
                raise CheckpointError(
                    f"{self._adapter.weights}: changes {name}, which the base model "
                    f"{self._adapter.base} does not have"
                )
        for name in self._whole:
            if not self._base.has(name) and name != "lm_head.weight":
                raise CheckpointError(
                    f"{self._adapter.weights}: has {name}, which the base model "
                    f"{self._adapter.base} does not have"
                )

    def _delta(self, factors: LoraFactors) -> Tensor:
        """What is added to the base's parameter, in its shape, float32."""
        a, b = (self._tensors.get(key).float() for key in (factors.a, factors.b))
        if a.dim() != 2 or b.dim() != 2 or len(a) != b.shape[1]:
            raise CheckpointError(
                f"{self._adapter.weights}: {factors.a} has shape {list(a.shape)}, which does not "
                f"fit {list(b.shape)} of {factors.b}"
            )
        delta = (b @ a).mul_(self._adapter.scale(factors.module))
        is_transposed = factors.is_embedding or self._adapter.is_transposed
        return delta.T if is_transposed else delta
