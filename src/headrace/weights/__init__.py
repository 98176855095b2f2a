"""Tensors by name, whatever they are stored in."""

from headrace.checkpoint.checkpoint import Checkpoint
from headrace.weights.base import Weights
from headrace.weights.dummy import DummyWeights
from headrace.weights.gguf import GGUFWeights
from headrace.weights.lora import LoraWeights
from headrace.weights.naming import Naming, RenamedWeights
from headrace.weights.parts import Part, Slice
from headrace.weights.pytorch import PytorchWeights
from headrace.weights.safetensors import SafetensorsWeights

__all__ = ["DummyWeights", "Naming", "Part", "RenamedWeights", "Slice", "Weights", "open_weights"]


def open_weights(checkpoint: Checkpoint) -> Weights:
    """The checkpoint's tensors with its adapter merged, by their names in Hugging Face's format."""
    base = _open_files(checkpoint)
    return base if checkpoint.adapter is None else LoraWeights(base, checkpoint.adapter)


def _open_files(checkpoint: Checkpoint) -> Weights:
    if checkpoint.gguf is not None:
        return GGUFWeights(checkpoint.gguf)
    if checkpoint.kind == "pytorch":
        return PytorchWeights(checkpoint.weight_files)
    return SafetensorsWeights(checkpoint.weight_files)
