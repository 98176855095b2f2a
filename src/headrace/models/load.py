"""From a checkpoint to a model that runs, with the attention backend that holds its cache."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from headrace.attention import choose_backend
from headrace.attention.base import AttentionBackend, AttentionBatch, AttentionShape, LayerShape
from headrace.attention.native import NativeBackend
from headrace.checkpoint.checkpoint import Checkpoint
from headrace.distributed.ranks import OneRank, Ranks
from headrace.distributed.shard import Shard, allowed_sizes
from headrace.errors import StartupError
from headrace.kernels import Kernels
from headrace.layers.mlp import MLPSpec
from headrace.layers.moe import MoESpec
from headrace.layers.native import NativeOperations, unsupported
from headrace.layers.operations import Operations, TorchOperations
from headrace.layers.parameters import DummyLoader, ParameterLoader
from headrace.models import ARCHITECTURES, find_architecture
from headrace.models.cache_scales import use_cache_scales
from headrace.models.decoder import Decoder
from headrace.models.spec import DecoderSpec
from headrace.quantization import Scheme, Target, open_scheme
from headrace.weights import DummyWeights, RenamedWeights, open_weights
from headrace.weights.heap import large_blocks_returned

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Where and how a model shall run."""

    dtype: torch.dtype
    """Of arithmetic, and in plain torch of parameters."""
    device: torch.device
    kv_dtype: torch.dtype | None = None
    """Of the cache; None: see `_default_kv_dtype`."""
    kernels: Kernels | None = None
    """CPU kernels to run on; None: plain torch."""
    weight_dtype: torch.dtype | None = None
    """Of floating-point weights on the kernels; None: as stored."""
    exact_activations: bool = False
    """On the kernels, float32 activations with all weights, not int8 or bfloat16."""
    prompt_dtype: torch.dtype | None = None
    """On the kernels, of activations at prompt positions where those at generated ones are int8;
    None: int8 too."""
    quantize: str | None = None
    """--quantize."""
    scheme: Scheme | None = None
    """Instead of the one that the checkpoint's config and `quantize` name."""
    load_format: str = "auto"
    """"dummy": random weights."""
    backend: AttentionBackend | None = None
    """Of a model of the same shape, whose cache this one shall share."""
    max_total_tokens: int | None = None
    """The longest request there will be, where that is less than the model's longest context."""
    ranks: Ranks = field(default_factory=OneRank)
    """Who else has a part of the model."""
    max_tokens: int = 0
    """Of one pass, where there are several ranks: it limits what they exchange."""
    max_logit_rows: int = 0
    """Of one call of the head, likewise."""
    trust_remote_code: bool = False
    """Code that comes with a checkpoint may run."""


class LanguageModel(Protocol):
    """What the runner needs of a model; see `models.decoder.Decoder`."""

    vocab_size: int
    max_position: int
    """Longest context."""
    weight_bytes: int

    def forward(self, token_ids: Tensor, batch: AttentionBatch) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


Progress = Callable[[int, int], None]


def load_model(
    checkpoint: Checkpoint,
    options: LoadOptions,
    progress: Progress = lambda done, total: None,
) -> tuple[LanguageModel, AttentionBackend]:
    """Load every parameter. The backend's cache is not allocated yet.

    `progress`: called with layers done and in all. Raises StartupError for a model that is not
    supported, CheckpointError for weights that are missing or do not fit.
    """
    architecture = find_architecture(checkpoint.config)
    with large_blocks_returned():
        if architecture is None or isinstance(architecture, type):
            return _load_fallback(checkpoint, options, progress, architecture)
        return _load_decoder(checkpoint, options, progress, architecture(checkpoint.config))


def _load_fallback(
    checkpoint: Checkpoint, options: LoadOptions, progress: Progress, model_class: Any | None
) -> tuple[LanguageModel, AttentionBackend]:
    try:
        from headrace.models.transformers.load import load_transformers_model
    except ModuleNotFoundError as error:
        raise StartupError(
            f"config.json: architectures is {checkpoint.config.get('architectures')}; native are "
            f"{', '.join(ARCHITECTURES)}; others need the package {error.name}: "
            "pip install 'headrace[transformers]'"
        ) from None
    return load_transformers_model(checkpoint, options, progress, model_class)


def _load_decoder(
    checkpoint: Checkpoint, options: LoadOptions, progress: Progress, spec: DecoderSpec
) -> tuple[LanguageModel, AttentionBackend]:
    config, ranks = checkpoint.config, options.ranks
    if checkpoint.wrapper is not None:
        logger.info(
            "%s: its text model is served; what reads images or sound is not loaded",
            checkpoint.wrapper,
        )
    if options.max_total_tokens is not None:
        spec = replace(spec, max_position=min(spec.max_position, options.max_total_tokens))
    shape = _attention_shape(spec, options, options.kernels, config)
    if options.kernels is not None and not _runs_on_kernels(spec, options, shape):
        shape = _attention_shape(spec, options, None, config)
    kernels = shape.kernels
    backend = options.backend or choose_backend(shape)
    operations: Operations = TorchOperations(backend, ranks)
    if isinstance(backend, NativeBackend):
        memory = ranks.memory(_slot_floats(spec, options))
        operations = NativeOperations(
            backend.kernels, backend, spec.max_position, memory, options.prompt_dtype
        )
    target = Target(
        dtype=options.dtype,
        device=options.device,
        weight_dtype=options.weight_dtype,
        kernels=kernels,
        exact_activations=options.exact_activations,
    )
    if options.quantize is not None and checkpoint.kind == "gguf":
        raise StartupError(f"--quantize {options.quantize}: a GGUF file keeps what it is stored in")
    scheme = options.scheme or open_scheme(config, target, options.quantize)
    weights = _open(checkpoint, spec, options)
    if isinstance(weights, RenamedWeights):
        use_cache_scales(backend, weights, len(shape.layers), shape.kv_dtype)
    load = _loader(weights, options, scheme, operations)
    return Decoder(spec, load, progress), backend


def _open(
    checkpoint: Checkpoint, spec: DecoderSpec, options: LoadOptions
) -> RenamedWeights | DummyWeights:
    if options.load_format == "dummy":
        return DummyWeights(getattr(torch, checkpoint.config["dtype"] or "float32"))
    return RenamedWeights(open_weights(checkpoint), spec.naming.within(checkpoint.text_part))


def _loader(
    weights: RenamedWeights | DummyWeights,
    options: LoadOptions,
    scheme: Scheme,
    operations: Operations,
) -> ParameterLoader:
    dtype, device, shard = options.dtype, options.device, options.ranks.shard
    if isinstance(weights, DummyWeights):
        return DummyLoader(weights, scheme, operations, dtype=dtype, device=device, shard=shard)
    return ParameterLoader(weights, scheme, operations, dtype=dtype, device=device, shard=shard)


def check_num_ranks(checkpoint: Checkpoint, num_ranks: int) -> None:
    """Raises StartupError unless the model can be split over so many ranks; of one that is not
    native `models.transformers.parallel` knows when it is loaded."""
    architecture = find_architecture(checkpoint.config)
    if architecture is None or isinstance(architecture, type):
        return
    layers = architecture(checkpoint.config).layers
    for num_heads, num_kv_heads in {
        (layer.attention.num_heads, layer.attention.num_kv_heads) for layer in layers
    }:
        allowed = allowed_sizes(num_heads, num_kv_heads)
        if num_ranks not in allowed:
            raise StartupError(
                f"--num-shard {num_ranks}: a model with {num_heads} attention heads and "
                f"{num_kv_heads} key-value heads can be split over "
                f"{', '.join(map(str, allowed))} ranks"
            )


def _slot_floats(spec: DecoderSpec, options: LoadOptions) -> int:
    """The largest contribution of one rank to a collective."""
    columns = -(-spec.vocab_size // options.ranks.shard.size)
    width = max(spec.hidden_size, spec.embedding.size)
    return max(options.max_tokens * width, options.max_logit_rows * columns)


def _default_kv_dtype(
    config: dict[str, Any], options: LoadOptions, kernels: Kernels | None
) -> torch.dtype:
    """That of the arithmetic; with the kernels float16, or bfloat16 where that is quicker and the
    weights themselves are no finer: in bfloat16 or quantized (as GGUF files are, which name no
    dtype)."""
    if kernels is None:
        return options.dtype
    is_fine = config["dtype"] in ("float16", "float32", "float64")
    is_quantized = config.get("quantization_config") or options.quantize or options.scheme
    if kernels.has_bfloat16_products and (is_quantized or not is_fine):
        return torch.bfloat16
    return torch.float16


def _attention_shape(
    spec: DecoderSpec,
    options: LoadOptions,
    kernels: Kernels | None,
    config: dict[str, Any],
) -> AttentionShape:
    layers, shard = [layer.attention for layer in spec.layers], options.ranks.shard
    return AttentionShape(
        layers=tuple(
            LayerShape(
                num_heads=len(shard.slice(layer.num_heads)),
                num_kv_heads=len(shard.shared_slice(layer.num_kv_heads)),
                head_size=layer.head_size,
                value_size=layer.value_size,
            )
            for layer in layers
        ),
        dtype=options.dtype,
        kv_dtype=options.kv_dtype or _default_kv_dtype(config, options, kernels),
        device=options.device,
        has_soft_cap=any(layer.soft_cap is not None for layer in layers),
        has_alibi=any(layer.alibi_slopes is not None for layer in layers),
        has_sinks=any(layer.has_sinks for layer in layers),
        has_chunks=any(layer.chunk is not None for layer in layers),
        kernels=kernels,
    )


def _runs_on_kernels(spec: DecoderSpec, options: LoadOptions, shape: AttentionShape) -> bool:
    """Whether the kernels have all that the model needs; the log says what they lack."""
    reasons = [NativeBackend.unsupported(shape)]
    for layer in set(spec.layers):
        size = options.ranks.shard.size
        reasons.append(unsupported(spec.hidden_size, layer.attention, _common(layer.mlp, size)))
        if size > 1 and layer.attention.head_norm and layer.attention.head_norm.is_joint:
            reasons.append("a norm over the heads of several ranks")
    if reason := next(filter(None, reasons), None):
        logger.warning("plain torch instead of the CPU kernels: %s", reason)
        return False
    return True


def _common(mlp: MLPSpec | MoESpec, num_ranks: int) -> MLPSpec | MoESpec:
    """With a size that divides every rank's share: ranks must come to one decision."""
    if isinstance(mlp, MoESpec):
        shared = None if mlp.shared is None else _common_size(mlp.shared, num_ranks)
        return replace(mlp, expert=_common_size(mlp.expert, num_ranks), shared=shared)
    return _common_size(mlp, num_ranks)


def _common_size(mlp: MLPSpec, num_ranks: int) -> MLPSpec:
    size = mlp.intermediate_size
    shares = [Shard(rank, num_ranks).features(size) for rank in range(num_ranks)]
    return replace(mlp, intermediate_size=math.gcd(*(share.count(size) for share in shares)))
