"""From a float checkpoint to a quantized one, one decoder layer after another."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from headrace.attention.base import AttentionBackend
from headrace.calibration.activations import Activations
from headrace.calibration.checkpoint import Entry, write_checkpoint
from headrace.calibration.finished import FinishedLayers, plan
from headrace.calibration.formats import FORMATS, Tensors
from headrace.calibration.hessian import Hessian
from headrace.calibration.linear import CalibrationLinear, CalibrationScheme
from headrace.calibration.names import StoredLayers, StoredNames
from headrace.calibration.recipe import Recipe
from headrace.calibration.windows import Windows
from headrace.checkpoint.checkpoint import Checkpoint
from headrace.checkpoint.tensor_names import tensor_names
from headrace.errors import StartupError
from headrace.models.decoder import Decoder, DecoderLayer
from headrace.models.load import LoadOptions, load_model
from headrace.quantization import SCHEMES, Target
from headrace.quantization.place import MatrixScheme, to_floats
from headrace.weights import open_weights
from headrace.weights.safetensors import SafetensorsWeights

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Perplexity:
    """Of the held-out windows; None: there were none."""

    before: float
    after: float


@torch.inference_mode()
def quantize(
    checkpoint: Checkpoint,
    windows: Windows,
    recipe: Recipe,
    output: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Perplexity | None:
    """Write the quantized checkpoint to `output`, going on where a killed run was.

    `progress` is told layers done and in all. Without held-out windows there is no perplexity.
    Raises StartupError for a model, recipe or folder that cannot be used.
    """
    if checkpoint.kind == "gguf" or checkpoint.config.get("quantization_config"):
        raise StartupError(f"{checkpoint.path} is quantized already: give the model in floats")
    stored_names = StoredNames(checkpoint)
    decoder, backend, linears = _load(checkpoint, windows)
    for linear in (linear for layer in linears for linear in layer):
        recipe.check(linear, is_transposed=stored_names.is_transposed(linear))
    stored = {linear: stored_names.of(linear) for layer in linears for linear in layer}
    kept = _kept(checkpoint, {name for names in stored.values() for name in names})
    finished = FinishedLayers(output, plan(checkpoint, recipe, windows))
    run = _Run(recipe, finished, stored, decoder, backend, windows)
    for layer, of_layer in enumerate(linears):
        progress(layer, len(linears))
        run.quantize_layer(layer, of_layer)
    progress(len(linears), len(linears))
    perplexity = run.perplexity() if windows.held_out else None
    ignored = sorted({stored_names.head, *_matrices(kept)})
    config = FORMATS[recipe.method].config(recipe, ignored)
    write_checkpoint(checkpoint, kept, finished.files(len(linears)), config, output)
    finished.delete()
    return perplexity


def _load(
    checkpoint: Checkpoint, windows: Windows
) -> tuple[Decoder, AttentionBackend, list[list[CalibrationLinear]]]:
    """The model with room in its cache for one window, and the linears of each layer."""
    scheme = CalibrationScheme()
    decoder, backend = load_model(
        checkpoint, LoadOptions(dtype=torch.float32, device=CPU, scheme=scheme)
    )
    assert isinstance(decoder, Decoder)
    longest = max(map(len, [*windows.calibration, *windows.held_out]), default=1)
    if longest > decoder.max_position:
        raise StartupError(
            f"sequences of {longest} tokens: the model's longest context is {decoder.max_position}"
        )
    backend.allocate(-(-longest // backend.block_size))
    return decoder, backend, [scheme.of_layer(layer) for layer in range(len(decoder.layers))]


def _kept(checkpoint: Checkpoint, replaced: set[str]) -> list[Entry]:
    """The tensors of all but these layers, and the layers' biases."""
    weights = open_weights(checkpoint)
    names = tensor_names(checkpoint.weight_files) - {f"{name}.weight" for name in replaced}
    return [(name, weights) for name in sorted(names) if weights.has(name)]


def _matrices(kept: Sequence[Entry]) -> Iterator[str]:
    """The layers whose weights stay floats."""
    for name, weights in kept:
        if name.endswith(".weight") and weights.get(name).dim() == 2:
            yield name.removesuffix(".weight")


class _Run:
    """The texts' way through the layers, and what is made of each layer on it."""

    def __init__(
        self,
        recipe: Recipe,
        finished: FinishedLayers,
        stored: Mapping[CalibrationLinear, StoredLayers],
        decoder: Decoder,
        backend: AttentionBackend,
        windows: Windows,
    ) -> None:
        """`stored`: where the checkpoint keeps each linear."""
        self._recipe = recipe
        self._finished = finished
        self._stored = stored
        self._decoder = decoder
        self._format = FORMATS[recipe.method]
        config = self._format.config(recipe, [])
        self._reader = SCHEMES[config["quant_method"]](
            config, Target(dtype=torch.float32, device=CPU)
        )
        calibration = windows.calibration if recipe.is_calibrated else []
        self._calibration = Activations(decoder, backend, calibration)
        self._exact = Activations(decoder, backend, windows.held_out)
        self._held_out = Activations(decoder, backend, windows.held_out)

    def quantize_layer(self, number: int, linears: list[CalibrationLinear]) -> None:
        """Quantize the layer unless a run before did, and take all windows through the layer."""
        layer = self._decoder.layers[number]
        self._exact.advance(layer)
        if not self._finished.has(number):
            self._finished.save(number, self._quantized(layer, linears))
        # What was stored is what the next layers will get: new or from a run before.
        stored = SafetensorsWeights([self._finished.path(number)])
        assert isinstance(self._reader, MatrixScheme)
        for linear in linears:
            matrix = torch.empty(linear.out_features, linear.in_features)
            for name, numbers in self._stored[linear].items():
                matrix[numbers] = to_floats(self._reader.read(stored, name))
            linear.matrix = matrix
        self._calibration.advance(layer)
        self._held_out.advance(layer)
        for linear in linears:
            linear.release()

    def _quantized(self, layer: DecoderLayer, linears: list[CalibrationLinear]) -> Tensors:
        if self._recipe.is_calibrated:
            for linear in linears:
                linear.hessian = Hessian(linear.in_features)
            self._calibration.show(layer)
        tensors: Tensors = {}
        for linear in linears:
            quantized = self._recipe.quantize(linear.matrix, linear.hessian)
            linear.hessian = None
            for name, numbers in self._stored[linear].items():
                stored = self._format.tensors(quantized.rows(numbers))
                tensors |= {f"{name}.{suffix}": tensor for suffix, tensor in stored.items()}
        return tensors

    def perplexity(self) -> Perplexity:
        return Perplexity(
            self._exact.perplexity(self._decoder), self._held_out.perplexity(self._decoder)
        )
