"""Tensors by name, whatever they are stored in."""

from headrace.checkpoint.checkpoint import Checkpoint
from headrace.weights.base import Weights
from headrace.weights.dummy import DummyWeights
from headrace.weights.gguf import GGUFWeights
from headrace.weights.naming import Naming, RenamedWeights
from headrace.weights.safetensors import SafetensorsWeights

__all__ = ["DummyWeights", "Naming", "RenamedWeights", "Weights", "open_weights"]


def open_weights(checkpoint: Checkpoint) -> Weights:
    """The checkpoint's tensors, by their names in Hugging Face's format of the model."""
    if checkpoint.gguf is not None:
        return GGUFWeights(checkpoint.gguf)
    return SafetensorsWeights(checkpoint.weight_files)
