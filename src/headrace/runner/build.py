"""From settings and a checkpoint to an executor that is ready for its first request."""

from collections.abc import Callable
from pathlib import Path

import msgspec
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
from headrace.runner.cache_pages import CachePages, tensors_of
from headrace.runner.drafting.chain import DraftChain
from headrace.runner.drafting.load import DraftTarget, load_drafter
from headrace.runner.executor import ModelExecutor
from headrace.runner.memory import SHARE_OF_CPU_MEMORY, CacheRequest, CacheSize, size_cache
from headrace.runner.recorded import RecordedDecoder, recorded
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
    settings: Settings,
    checkpoint: Checkpoint,
    progress: Progress,
    ranks: Ranks | None = None,
    drafter: Path | None = None,
) -> tuple[ModelExecutor, EngineInfo]:
    """Load the model, size and allocate its cache, warm up; of several `ranks`, everyone does.

    `drafter`: where a draft model or heads for the model lie.
    Raises StartupError when device, model and memory do not fit what the settings ask for.
    """
    checkpoint = with_rope_scaling(checkpoint, settings.rope_scaling, settings.rope_factor)
    ranks = ranks or OneRank()
    device = devices.choose_device(settings, ranks.device_index)
    kernels = devices.choose_kernels(settings, device)
    threads = _set_num_threads(settings, kernels, ranks)
    options = _options(settings, checkpoint, device, kernels, ranks)
    model, backend = load_model(
        checkpoint, options, lambda done, total: progress("load weights", done, total)
    )
    loaded = load_drafter(
        settings.draft_model_id,
        drafter,
        DraftTarget(checkpoint=checkpoint, model=model, backend=backend, options=options),
        lambda done, total: progress("load drafter", done, total),
    )
    bytes_per_block = backend.bytes_per_block() + (loaded.bytes_per_block if loaded else 0)
    is_recorded = isinstance(model, Decoder) and isinstance(backend, NativeBackend)
    # torch's own threads would contend with the kernels' for the same cores.
    torch.set_num_threads(1 if is_recorded else threads)
    cache = _cache_size(
        settings, backend.block_size, bytes_per_block, model.max_position, device, ranks
    )
    backend.allocate(cache.num_blocks)
    info = EngineInfo(
        max_total_tokens=cache.max_total_tokens,
        max_batch_prefill_tokens=_max_prefill_tokens(settings, device),
        max_num_seqs=_max_num_seqs(settings),
        num_blocks=cache.num_blocks,
        block_size=backend.block_size,
        vocab_size=model.vocab_size,
        device=devices.describe(device),
        dtype=str(options.dtype).removeprefix("torch."),
        kernels=_kernels_in_use(kernels, are_used=is_recorded or not isinstance(model, Decoder)),
        weight_bytes=ranks.total(model.weight_bytes + (loaded.weight_bytes if loaded else 0)),
        kv_cache_bytes=ranks.total(cache.num_blocks * bytes_per_block),
        max_num_drafts=loaded.max_num_drafts if loaded else 0,
    )
    buffers = _buffers(info, device, is_fixed=is_recorded)
    sampler = Sampler(info.max_num_seqs, kernels, _watermark(settings))
    drafts = (
        DraftChain(loaded.make(buffers, cache.num_blocks, sampler), sampler) if loaded else None
    )
    runnable = recorded(model, backend, buffers, info.max_num_seqs)
    drawing = None
    if isinstance(runnable, RecordedDecoder):
        drawing = runnable.drawing
        sampler.expect(drawing)
        if runnable.distinguishes_prompts:
            kinds = f"{info.kernels}; prompts in bfloat16, new tokens in int8"
            info = msgspec.structs.replace(info, distinguishes_prompts=True, kernels=kinds)
    pages = _cache_pages(backend, loaded.backend if loaded else None)
    executor = ModelExecutor(runnable, buffers, sampler, drafts, pages, drawing)
    _warm_up(executor, info, progress)
    return executor, info


def _set_num_threads(settings: Settings, kernels: Kernels, ranks: Ranks) -> int:
    """Of the kernels and of torch: this rank's share; returns it."""
    threads = max(1, devices.num_threads(settings) // ranks.shard.size)
    kernels.set_num_threads(threads)
    torch.set_num_threads(threads)
    return threads


def _options(
    settings: Settings,
    checkpoint: Checkpoint,
    device: torch.device,
    kernels: Kernels,
    ranks: Ranks,
) -> LoadOptions:
    is_native = not isinstance(kernels, TorchKernels)
    dtype = devices.choose_dtype(settings, checkpoint.config["dtype"], device)
    return LoadOptions(
        dtype=dtype,
        device=device,
        kv_dtype=devices.choose_kv_dtype(settings),
        kernels=kernels if is_native else None,
        weight_dtype=dtype if settings.dtype else None,
        exact_activations=settings.activations == "float32",
        prompt_dtype=devices.choose_prompt_dtype(settings, kernels, ranks),
        quantize=settings.quantize,
        load_format=settings.load_format,
        ranks=ranks,
        max_tokens=_max_prefill_tokens(settings, device) + _max_num_seqs(settings),
        max_logit_rows=_max_num_seqs(settings),
        trust_remote_code=settings.trust_remote_code,
        max_total_tokens=settings.max_total_tokens,
    )


def _max_prefill_tokens(settings: Settings, device: torch.device) -> int:
    return settings.max_batch_prefill_tokens or PREFILL_TOKENS[device.type]


def _max_num_seqs(settings: Settings) -> int:
    return settings.max_batch_size or MAX_NUM_SEQS


def _cache_size(
    settings: Settings,
    block_size: int,
    bytes_per_block: int,
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
            block_size=block_size,
            bytes_per_block=bytes_per_block,
            available=available // ranks.local_size if is_cpu else available,
            share=SHARE_OF_CPU_MEMORY / settings.num_replica if is_cpu else 1.0,
            cache_memory=settings.kv_cache_memory,
            cache_tokens=settings.max_batch_total_tokens,
            max_total_tokens=settings.max_total_tokens,
            max_position_embeddings=max_position,
            max_num_seqs=_max_num_seqs(settings),
        )
    )
    return CacheSize(ranks.minimum(size.num_blocks), ranks.minimum(size.max_total_tokens))


def _cache_pages(*backends: AttentionBackend | None) -> CachePages | None:
    """Of all their caches that are in the kernels' layout."""
    caches = [c for each in backends if isinstance(each, NativeBackend) for c in each.caches]
    return CachePages(tensors_of(caches)) if caches else None


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
