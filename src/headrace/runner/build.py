"""From settings and a checkpoint to an executor that is ready for its first request."""

from collections.abc import Callable

import torch

from headrace.attention.base import AttentionBackend
from headrace.attention.native import NativeBackend
from headrace.checkpoint.checkpoint import Checkpoint, with_rope_scaling
from headrace.config import Settings
from headrace.distributed.ranks import OneRank, Ranks
from headrace.kernels import Kernels, TorchKernels
from headrace.models.decoder import Decoder
from headrace.models.load import LoadOptions, load_model
from headrace.runner import device as devices
from headrace.runner.batch import BatchBuffers
from headrace.runner.executor import Model, ModelExecutor
from headrace.runner.memory import SHARE_OF_CPU_MEMORY, CacheRequest, CacheSize, size_cache
from headrace.runner.recorded import RecordedDecoder
from headrace.runner.sampler import Sampler
from headrace.runner.warm_up import warm_up_plans
from headrace.runner.watermark import Watermark
from headrace.types import EngineInfo

PREFILL_TOKENS = {"cpu": 512, "cuda": 4096}
"""Default token budget of one step: enough to keep the device busy, few enough that decodes in the
same step do not wait long."""
MAX_NUM_SEQS = 256
Progress = Callable[[str, int, int], None]
"""Told the stage, what of it is done, and how much there is in all."""


def build_executor(
    settings: Settings, checkpoint: Checkpoint, progress: Progress, ranks: Ranks | None = None
) -> tuple[ModelExecutor, EngineInfo]:
    """Load the model, size and allocate its cache, warm up; of several `ranks`, everyone does.

    Raises StartupError when device, model and memory do not fit what the settings ask for.
    """
    checkpoint = with_rope_scaling(checkpoint, settings.rope_scaling, settings.rope_factor)
    ranks = ranks or OneRank()
    device = devices.choose_device(settings, ranks.shard.rank)
    kernels = devices.choose_kernels(settings, device)
    is_native = not isinstance(kernels, TorchKernels)
    threads = max(1, devices.num_threads(settings) // ranks.shard.size)
    kernels.set_num_threads(threads)
    torch.set_num_threads(threads)
    dtype = devices.choose_dtype(settings, checkpoint.config["dtype"], device)
    max_num_seqs = settings.max_batch_size or MAX_NUM_SEQS
    max_prefill_tokens = settings.max_batch_prefill_tokens or PREFILL_TOKENS[device.type]
    options = LoadOptions(
        dtype=dtype,
        device=device,
        kv_dtype=devices.choose_kv_dtype(settings, is_native=is_native),
        kernels=kernels if is_native else None,
        weight_dtype=dtype if settings.dtype else None,
        exact_activations=settings.activations == "float32",
        quantize=settings.quantize,
        load_format=settings.load_format,
        ranks=ranks,
        max_tokens=max_prefill_tokens + max_num_seqs,
        max_logit_rows=max_num_seqs,
        trust_remote_code=settings.trust_remote_code,
        max_total_tokens=settings.max_total_tokens,
    )
    model, backend = load_model(
        checkpoint, options, lambda done, total: progress("load weights", done, total)
    )
    is_recorded = isinstance(model, Decoder) and isinstance(backend, NativeBackend)
    # torch's own threads would contend with the kernels' for the same cores.
    torch.set_num_threads(1 if is_recorded else threads)
    cache = _cache_size(settings, backend, model.max_position, device, ranks)
    backend.allocate(cache.num_blocks)
    info = EngineInfo(
        max_total_tokens=cache.max_total_tokens,
        max_batch_prefill_tokens=max_prefill_tokens,
        max_num_seqs=max_num_seqs,
        num_blocks=cache.num_blocks,
        block_size=backend.block_size,
        vocab_size=model.vocab_size,
        device=devices.describe(device),
        dtype=str(dtype).removeprefix("torch."),
        kernels=_kernels_in_use(kernels, are_used=is_recorded or not isinstance(model, Decoder)),
        weight_bytes=model.weight_bytes,
        kv_cache_bytes=cache.num_blocks * backend.bytes_per_block(),
    )
    buffers = _buffers(info, device, is_fixed=is_recorded)
    runnable: Model = model
    if isinstance(model, Decoder) and isinstance(backend, NativeBackend):
        runnable = RecordedDecoder(model, buffers, max_num_seqs)
    executor = ModelExecutor(
        runnable, buffers, Sampler(max_num_seqs, kernels, _watermark(settings))
    )
    _warm_up(executor, info, progress)
    return executor, info


def _cache_size(
    settings: Settings,
    backend: AttentionBackend,
    max_position: int,
    device: torch.device,
    ranks: Ranks,
) -> CacheSize:
    """What every rank can have; on the CPU they share the memory."""
    ranks.minimum(0)  # nobody is loading any more
    available = devices.available_memory(device, settings.cuda_memory_fraction)
    is_cpu = device.type == "cpu"
    size = size_cache(
        CacheRequest(
            block_size=backend.block_size,
            bytes_per_block=backend.bytes_per_block(),
            available=available // ranks.shard.size if is_cpu else available,
            share=SHARE_OF_CPU_MEMORY / settings.num_replica if is_cpu else 1.0,
            cache_memory=settings.kv_cache_memory,
            cache_tokens=settings.max_batch_total_tokens,
            max_total_tokens=settings.max_total_tokens,
            max_position_embeddings=max_position,
            max_num_seqs=settings.max_batch_size or MAX_NUM_SEQS,
        )
    )
    return CacheSize(ranks.minimum(size.num_blocks), ranks.minimum(size.max_total_tokens))


def _watermark(settings: Settings) -> Watermark:
    return Watermark(gamma=settings.watermark_gamma, delta=settings.watermark_delta)


def _kernels_in_use(kernels: Kernels, *, are_used: bool) -> str:
    """For people: the reason of whatever computes the model."""
    if are_used or isinstance(kernels, TorchKernels):
        return kernels.reason
    return f"plain torch: this model does not run on {kernels.name} kernels (see the log)"


def _buffers(info: EngineInfo, device: torch.device, *, is_fixed: bool) -> BatchBuffers:
    max_blocks = -(-info.max_total_tokens // info.block_size)
    # Decodes may come on top of a full budget of prompt tokens.
    max_tokens = info.max_batch_prefill_tokens + info.max_num_seqs
    return BatchBuffers(
        max_tokens, info.max_num_seqs, max_blocks, info.block_size, device, is_fixed=is_fixed
    )


def _warm_up(executor: ModelExecutor, info: EngineInfo, progress: Progress) -> None:
    plans = list(warm_up_plans(info))
    for done, plan in enumerate(plans):
        progress("warm up", done, len(plans))
        executor.execute(plan)
    progress("warm up", len(plans), len(plans))
