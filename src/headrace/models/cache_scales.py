"""k_scale and v_scale: what keys and values are divided by in a cache of 8-bit floats, as a
quantized checkpoint was calibrated. Caches of other types do without them."""

import logging
import math

import torch

from headrace.attention.base import AttentionBackend, CacheScales
from headrace.attention.native import NativeBackend
from headrace.attention.paged import PagedBackend
from headrace.errors import CheckpointError
from headrace.weights import Weights

NAMES = ("{0}_proj.{0}_scale", "{0}_scale", "{0}_proj.output_scale", "kv_scale")
"""Within a layer's attention, for "k" and "v": the spellings that vLLM takes."""

logger = logging.getLogger(__name__)


def use_cache_scales(
    backend: AttentionBackend, weights: Weights, num_layers: int, kv_dtype: torch.dtype
) -> None:
    """Give the backend the checkpoint's scales, or log why not.

    Raises CheckpointError naming a scale that is no positive number.
    """
    is_float8 = kv_dtype.is_floating_point and kv_dtype.itemsize == 1
    is_stored = any(find(weights, 0, kind) for kind in "kv")
    if is_stored and not is_float8:
        logger.info(
            "k_scale and v_scale are for a cache of 8-bit floats: not used with %s", kv_dtype
        )
    elif is_float8 and not is_stored:
        logger.warning("%s cache: no k_scale and v_scale in the checkpoint, 1 instead", kv_dtype)
    elif is_float8:
        assert isinstance(backend, PagedBackend | NativeBackend)
        backend.scales = [
            CacheScales(key=read(weights, layer, "k"), value=read(weights, layer, "v"))
            for layer in range(num_layers)
        ]


def find(weights: Weights, layer: int, kind: str) -> str | None:
    """The tensor's name."""
    names = [f"model.layers.{layer}.self_attn.{name.format(kind)}" for name in NAMES]
    return next(filter(weights.has, names), None)


def read(weights: Weights, layer: int, kind: str) -> float:
    """Of one layer; 1 where it has none."""
    name = find(weights, layer, kind)
    if name is None:
        return 1.0
    stored = weights.get(name)
    value = float(stored) if stored.numel() == 1 else math.nan
    if not (math.isfinite(value) and value > 0):
        raise CheckpointError(
            f"tensor {name}: expected one positive number, "
            f"found {list(stored.shape)} {stored.flatten()[:4].tolist()}"
        )
    return value
