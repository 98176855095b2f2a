"""The sampling parameters of all executor rows as one table on the host, a record per row."""

from enum import IntFlag

import numpy as np
import torch

from headrace.runner.penalties import Penalties
from headrace.types import SamplingParams


class Feature(IntFlag):
    """What a row asks for beyond a draw."""

    LOGPROBS = 1
    PENALTIES = 2
    BIAS = 4
    MINIMUM = 8
    WATERMARK = 16


RECORD = np.dtype(
    [
        ("repetition_penalty", np.float32),
        ("frequency_penalty", np.float32),
        ("presence_penalty", np.float32),
        ("num_top_logprobs", np.int64),
        ("stop_from", np.int64),  # tokens at positions before this one must not stop (min_tokens)
    ]
)
SMALLEST_TEMPERATURE = float(np.finfo(np.float32).tiny)
Table = np.ndarray[tuple[int, ...], np.dtype[np.void]]
"""Of RECORD."""


def draw(params: SamplingParams) -> tuple[float, ...]:
    """A record of DRAW, but for the position."""
    return (
        # A positive temperature must not become 0 in float32, which would mean greedy.
        max(params.temperature, SMALLEST_TEMPERATURE) if params.temperature > 0 else 0.0,
        params.top_p,
        params.typical_p,
        params.min_p,
        params.top_k,
        params.seed,
        0,
    )


def record(params: SamplingParams, num_prompt_tokens: int) -> tuple[float, ...]:
    """What a row's features need to know."""
    return (
        params.repetition_penalty,
        params.frequency_penalty,
        params.presence_penalty,
        params.num_top_logprobs or 0,
        num_prompt_tokens + params.min_tokens,
    )


def features(params: SamplingParams) -> Feature:
    is_penalized = (
        params.repetition_penalty != 1,
        params.frequency_penalty != 0,
        params.presence_penalty != 0,
    )
    result = Feature(0)
    if params.num_top_logprobs is not None:
        result |= Feature.LOGPROBS
    if any(is_penalized):
        result |= Feature.PENALTIES
    if params.logit_bias:
        result |= Feature.BIAS
    if params.min_tokens and params.stop_token_ids:
        result |= Feature.MINIMUM
    if params.watermark:
        result |= Feature.WATERMARK
    return result


def penalties(records: Table, device: torch.device) -> Penalties:
    """Of the records [R]."""
    names = ("repetition_penalty", "frequency_penalty", "presence_penalty")
    return Penalties(
        *(torch.from_numpy(records[name][:, None].copy()).to(device) for name in names)
    )
