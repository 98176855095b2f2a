"""Loads what --draft-model-id names. Weights come before the cache is sized, passes after."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from headrace.attention.base import AttentionBackend
from headrace.attention.native import NativeBackend
from headrace.checkpoint.checkpoint import Checkpoint, open_checkpoint
from headrace.checkpoint.locate import SELF
from headrace.checkpoint.speculator import MedusaConfig, SpeculatorConfig, read_speculator
from headrace.errors import StartupError
from headrace.layers.parameters import ParameterLoader
from headrace.models.decoder import Decoder
from headrace.models.load import LanguageModel, LoadOptions, Progress, load_model
from headrace.quantization import Target
from headrace.quantization.none import Unquantized
from headrace.runner.batch import BatchBuffers
from headrace.runner.drafting.base import Drafter
from headrace.runner.drafting.draft_model import DraftModel
from headrace.runner.drafting.ledger import Ledger
from headrace.runner.drafting.medusa import Medusa
from headrace.runner.drafting.mlp_speculator import MLPSpeculator
from headrace.runner.drafting.passes import DraftPasses
from headrace.runner.drafting.self_speculation import SelfSpeculation
from headrace.runner.drafting.states import LastStates
from headrace.runner.recorded import RecordedDecoder, recorded
from headrace.runner.sampler import Sampler
from headrace.weights import Weights
from headrace.weights.safetensors import SafetensorsWeights

FLAG = "--draft-model-id"
MAX_DRAFTS = 16
"""That a model drafts per row and step; heads draft one each."""


@dataclass(frozen=True, kw_only=True)
class LoadedDrafter:
    """A drafter whose weights are in memory."""

    max_num_drafts: int
    weight_bytes: int
    backend: AttentionBackend | None = None
    """Of its own cache, which has as many blocks as the target's; None: it needs none."""
    make: Callable[[BatchBuffers, int, Sampler], Drafter]
    """From the target's buffers, the number of blocks, when these are allocated, and who chooses
    among its logits."""

    @property
    def bytes_per_block(self) -> int:
        return 0 if self.backend is None else self.backend.bytes_per_block()


@dataclass(frozen=True, kw_only=True)
class DraftTarget:
    """The model that shall be drafted for."""

    checkpoint: Checkpoint
    model: LanguageModel
    backend: AttentionBackend
    options: LoadOptions


def load_drafter(
    name: str | None, path: Path | None, target: DraftTarget, progress: Progress
) -> LoadedDrafter | None:
    """`name` is the flag's value and `path` where it lies; heads may come without a flag.

    Raises StartupError when the drafter cannot serve the target.
    """
    if name == SELF:
        return _load_self(target, progress)
    if path is None:
        return None
    config = read_speculator(path)
    if config is not None:
        return _load_heads(path, config, target)
    return _load_model(open_checkpoint(path), target, progress)


def _load_model(checkpoint: Checkpoint, target: DraftTarget, progress: Progress) -> LoadedDrafter:
    options = replace(target.options, prompt_dtype=None)  # drafts may differ in their last bits
    model, backend = load_model(checkpoint, options, progress)
    if model.vocab_size != target.model.vocab_size:
        raise StartupError(
            f"{FLAG} {checkpoint.path}: its vocabulary has {model.vocab_size} tokens, the model's "
            f"{target.model.vocab_size}; both must have the same tokenizer"
        )
    if backend.block_size != target.backend.block_size:
        raise StartupError(
            f"{FLAG} {checkpoint.path}: it keeps {backend.block_size} tokens in a cache block, the "
            f"model {target.backend.block_size}; choose a draft model of a similar architecture"
        )

    def make(buffers: BatchBuffers, num_blocks: int, sampler: Sampler) -> Drafter:
        backend.allocate(num_blocks)
        passes = _passes(model, backend, buffers, buffers.max_tokens, sampler)
        ledger = Ledger(buffers.block_tables, num_blocks, buffers.block_size)
        return DraftModel(passes, ledger, MAX_DRAFTS)

    return LoadedDrafter(
        max_num_drafts=MAX_DRAFTS, weight_bytes=model.weight_bytes, backend=backend, make=make
    )


def _load_self(target: DraftTarget, progress: Progress) -> LoadedDrafter:
    _check_has_narrower_form(target)
    options = replace(target.options, quantize="int4", backend=target.backend, prompt_dtype=None)
    model, backend = load_model(target.checkpoint, options, progress)

    def make(buffers: BatchBuffers, num_blocks: int, sampler: Sampler) -> Drafter:
        passes = _passes(model, backend, buffers, sampler.max_rows, sampler)
        return SelfSpeculation(passes, MAX_DRAFTS)

    return LoadedDrafter(max_num_drafts=MAX_DRAFTS, weight_bytes=model.weight_bytes, make=make)


def _check_has_narrower_form(target: DraftTarget) -> None:
    checkpoint, options = target.checkpoint, target.options
    if not isinstance(target.model, Decoder):
        raise StartupError(f"{FLAG} {SELF}: only native models can draft for themselves")
    stored = checkpoint.config.get("quantization_config")
    if checkpoint.gguf is not None or stored or options.quantize:
        raise StartupError(
            f"{FLAG} {SELF}: the model's weights are quantized already, so that narrower ones "
            "would gain nothing; give a smaller draft model"
        )


def _passes(
    model: LanguageModel,
    backend: AttentionBackend,
    buffers: BatchBuffers,
    max_tokens: int,
    sampler: Sampler,
) -> DraftPasses:
    """Passes of so many tokens over the rows of the target's buffers."""
    own = buffers.beside(max_tokens, is_fixed=isinstance(backend, NativeBackend))
    runnable = recorded(model, backend, own, sampler.max_rows)
    if isinstance(runnable, RecordedDecoder):
        sampler.expect(runnable.drawing)
    return DraftPasses(runnable, own, model.max_position)


def _load_heads(path: Path, config: SpeculatorConfig, target: DraftTarget) -> LoadedDrafter:
    decoder = target.model
    if not isinstance(decoder, Decoder):
        raise StartupError(f"{path}: only native models can have heads that draft")
    weights = _head_weights(path)
    load = _head_loader(weights, decoder, target)
    states = LastStates(None if decoder.norm is None else decoder.norm.parameters)
    drafter: Drafter
    if isinstance(config, MedusaConfig):
        have_outputs = weights.has(f"0.{config.medusa_num_layers}.weight")
        if not have_outputs and decoder.head.weight.out_features != decoder.vocab_size:
            raise StartupError(
                f"{path}: Medusa heads without output matrices read the model's own, which "
                "--num-shard splits; serve them on one rank"
            )
        sizes = (decoder.spec.hidden_size, decoder.vocab_size)
        drafter = Medusa(load, config, states, None if have_outputs else decoder.head.weight, sizes)
    else:
        _check_sizes(path, config.emb_dim, decoder.spec.hidden_size, "emb_dim", "hidden_size")
        _check_sizes(path, config.vocab_size, decoder.vocab_size, "vocab_size", "vocab_size")
        drafter = MLPSpeculator(load, config, states)
    return LoadedDrafter(
        max_num_drafts=drafter.max_num_drafts,
        weight_bytes=load.nbytes,
        make=lambda buffers, num_blocks, sampler: drafter,
    )


def _check_sizes(path: Path, found: int, wanted: int, name: str, of_model: str) -> None:
    if found != wanted:
        raise StartupError(
            f"{path}: {name} is {found}, but {of_model} of the model is {wanted}; "
            "these heads were made for another model"
        )


def _head_weights(path: Path) -> SafetensorsWeights:
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise StartupError(f"{path}: has no safetensors file with the heads' weights")
    return SafetensorsWeights(files)


def _head_loader(weights: Weights, decoder: Decoder, target: DraftTarget) -> ParameterLoader:
    options = target.options
    is_native = isinstance(target.backend, NativeBackend)
    place = Target(
        dtype=options.dtype,
        device=options.device,
        weight_dtype=options.weight_dtype,
        kernels=options.kernels if is_native else None,
        exact_activations=options.exact_activations,
    )
    return ParameterLoader(
        weights,
        Unquantized({}, place),
        decoder.operations,
        dtype=options.dtype,
        device=options.device,
    )
