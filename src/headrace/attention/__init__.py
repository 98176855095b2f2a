"""Attention over the paged KV cache: one file per backend, `BACKENDS` in order of preference."""

import logging

from headrace.attention.base import AttentionBackend, AttentionShape
from headrace.attention.native import NativeBackend
from headrace.attention.paged import PagedBackend
from headrace.attention.varlen import VarlenBackend
from headrace.errors import StartupError

__all__ = ["BACKENDS", "AttentionBackend", "choose_backend"]

BACKENDS: dict[str, type[AttentionBackend]] = {
    "native": NativeBackend,
    "varlen": VarlenBackend,
    "paged": PagedBackend,
}

logger = logging.getLogger(__name__)


def choose_backend(shape: AttentionShape) -> AttentionBackend:
    """The first backend that supports the model; the log says why others were passed over.

    Raises StartupError when none does.
    """
    reasons: list[str] = []
    for name, backend in BACKENDS.items():
        reason = backend.unsupported(shape)
        if reason is None:
            skipped = f" ({'; '.join(reasons)})" if reasons else ""
            logger.info("attention backend: %s%s", name, skipped)
            return backend(shape)
        reasons.append(f"{name} {reason}")
    raise StartupError(f"no attention backend for this model: {'; '.join(reasons)}")
