"""From a checkpoint to a model that runs, with the attention backend that holds its cache."""

from collections.abc import Callable

import torch

from headrace.attention import choose_backend
from headrace.attention.base import AttentionBackend, AttentionShape
from headrace.checkpoint.checkpoint import Checkpoint
from headrace.layers.parameters import ParameterLoader
from headrace.models import spec_of
from headrace.models.decoder import Decoder
from headrace.quantization import SCHEMES, detect
from headrace.weights import open_weights


def load_model(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    device: torch.device,
    kv_dtype: torch.dtype,
    load_format: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Decoder, AttentionBackend]:
    """Load every parameter onto `device`. The backend's cache is not allocated yet.

    `dtype`: of parameters and arithmetic; `load_format` "dummy": random weights; `progress`:
    called with layers done and in all. Raises StartupError for a model that is not supported,
    CheckpointError for weights that are missing or do not fit.
    """
    config = checkpoint.config
    spec = spec_of(config)
    attention = spec.attention[0]
    backend = choose_backend(
        AttentionShape(
            num_layers=len(spec.attention),
            num_heads=attention.num_heads,
            num_kv_heads=attention.num_kv_heads,
            head_size=attention.head_size,
            dtype=dtype,
            kv_dtype=kv_dtype,
            device=device,
        )
    )
    scheme = SCHEMES[detect(config)](
        config.get("quantization_config") or {}, dtype=dtype, device=device
    )
    weights = open_weights(checkpoint, load_format)
    load = ParameterLoader(weights, scheme, dtype=dtype, device=device)
    return Decoder(spec, load, backend, progress), backend
