"""Tensors by their Hugging Face names, whatever they are stored in."""

from headrace.checkpoint.checkpoint import Checkpoint
from headrace.weights.base import Weights
from headrace.weights.dummy import DummyWeights
from headrace.weights.gguf import GGUFWeights
from headrace.weights.parts import Part, Slice
from headrace.weights.safetensors import SafetensorsWeights

__all__ = ["Part", "Slice", "Weights", "open_weights"]


def open_weights(checkpoint: Checkpoint, load_format: str = "auto") -> Weights:
    """The checkpoint's tensors; random ones of the same shapes for `load_format` "dummy"."""
    if load_format == "dummy":
        return DummyWeights(checkpoint.config)
    if checkpoint.gguf is not None:
        return GGUFWeights(checkpoint.gguf)
    return SafetensorsWeights(checkpoint.weight_files)
