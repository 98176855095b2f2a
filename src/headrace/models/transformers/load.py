"""Puts a transformers model together: weights, linear layers, attention backend, proof."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from headrace.attention import AttentionBackend, choose_backend
from headrace.attention.base import AttentionShape
from headrace.checkpoint.checkpoint import Checkpoint
from headrace.errors import CheckpointError, StartupError
from headrace.models.load import LoadOptions
from headrace.models.transformers.attention import LayerAttention
from headrace.models.transformers.checkpoint import (
    build,
    first_line,
    load_parameters,
    read_config,
    refuse_unservable,
)
from headrace.models.transformers.linear import adopt_linears, num_bytes
from headrace.models.transformers.model import TransformersModel
from headrace.models.transformers.parallel import plan_cuts
from headrace.models.transformers.positions import longest_context, override_rope
from headrace.models.transformers.survey import check_windows, take_survey
from headrace.models.transformers.trial import NUM_BLOCKS, check_against_itself
from headrace.quantization import Scheme, Target, open_scheme

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


def load_transformers_model(
    checkpoint: Checkpoint,
    options: LoadOptions,
    progress: Progress,
    model_class: type[PreTrainedModel] | None = None,
) -> tuple[TransformersModel, AttentionBackend]:
    """Load a checkpoint of `model_class`, or of the class that transformers has for it.

    Raises StartupError, naming the architecture, for a model that the paged cache cannot serve;
    CheckpointError for weights that are missing or damaged.
    """
    named = ", ".join(checkpoint.config.get("architectures") or ["this model"])
    lead = f"{named} is not native to Headrace and cannot run on transformers' code:"
    try:
        return _load(checkpoint, options, progress, model_class)
    except CheckpointError:
        raise
    except StartupError as error:
        raise StartupError(f"{lead} {error}") from error
    except Exception as error:  # of code that is not ours
        raise StartupError(
            f"{lead} it raises {type(error).__name__}: {first_line(error)}"
        ) from error


def _load(
    checkpoint: Checkpoint,
    options: LoadOptions,
    progress: Progress,
    model_class: type[PreTrainedModel] | None,
) -> tuple[TransformersModel, AttentionBackend]:
    progress(0, 1)
    model = _load_model(checkpoint, options, model_class)
    layers, vocab_size = take_survey(model)
    shape = _attention_shape(layers, options)
    config = model.config.get_text_config(decoder=True)
    check_windows(config, layers)
    sizes = {
        "vocab_size": vocab_size,
        "max_position": longest_context(config),
        "weight_bytes": num_bytes(model),
    }
    backend = choose_backend(shape)
    # Its cache is as exact as the arithmetic: the rounding of a smaller one is no error.
    trial = type(backend)(replace(shape, kv_dtype=shape.dtype))
    trial.allocate(NUM_BLOCKS)
    served = TransformersModel(model, layers, trial, **sizes)
    check_against_itself(model, served, trial.block_size)
    logger.info(
        "%s runs on transformers' code, with continuous batching, chunked prefill and prefix cache",
        type(model).__name__,
    )
    progress(1, 1)
    return TransformersModel(model, layers, backend, **sizes), backend


def _load_model(
    checkpoint: Checkpoint, options: LoadOptions, model_class: type[PreTrainedModel] | None
) -> PreTrainedModel:
    """With weights, on its device, its linear layers on the kernels if there are some."""
    trust = options.trust_remote_code
    config = read_config(checkpoint, model_class, trust_remote_code=trust)
    if checkpoint.rope_override is not None:
        override_rope(config, checkpoint.rope_override)
    with torch.device("meta"):
        empty = build(config, model_class, trust_remote_code=trust)
    refuse_unservable(empty, checkpoint.config.get("architectures") or [])
    cuts = plan_cuts(empty, options.ranks)
    dtype: Any = options.dtype if options.kernels is None else options.weight_dtype or "auto"
    if options.load_format == "dummy":
        stored = config.dtype or torch.float32
        dtype = stored if dtype == "auto" else dtype
        torch.manual_seed(0)  # every rank makes the same weights
        model = build(config, type(empty), trust_remote_code=trust, dtype=dtype)
    else:
        model = load_parameters(type(empty), config, checkpoint, dtype)
    model.eval()
    if options.kernels is None:
        model.to(device=options.device)  # type: ignore[call-arg]
        if options.quantize is not None or cuts:
            adopt_linears(model, _scheme(options), cuts)
        return model
    adopt_linears(model, _scheme(options), cuts)
    # The kernels' arithmetic; what they have packed keeps its width.
    return model.float()


def _scheme(options: LoadOptions) -> Scheme:
    target = Target(
        dtype=options.dtype,
        device=options.device,
        weight_dtype=options.weight_dtype,
        kernels=options.kernels,
        exact_activations=options.exact_activations,
    )
    return open_scheme({}, target, options.quantize)


def _attention_shape(layers: list[LayerAttention], options: LoadOptions) -> AttentionShape:
    on_kernels = options.kernels is not None
    by_default = torch.float16 if on_kernels else options.dtype
    return AttentionShape(
        layers=tuple(layer.shape for layer in layers),
        dtype=torch.float32 if on_kernels else options.dtype,
        kv_dtype=options.kv_dtype or by_default,
        device=options.device,
        has_soft_cap=any(layer.options.soft_cap is not None for layer in layers),
        has_sinks=any(layer.options.sinks is not None for layer in layers),
        kernels=options.kernels,
    )
