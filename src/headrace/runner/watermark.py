"""Watermarks: after every token another share of the vocabulary, its green list, gets likelier.

Kirchenbauer et al. 2023, "A Watermark for Large Language Models": the soft watermark whose list is
seeded by one token of context. Lists are permutations by torch's generator on the CPU, whatever
device samples, as transformers' `WatermarkDetector` expects them ("lefthash", context width 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

HASH_KEY = 15485863
"""The paper's (and TGI's, and transformers') key: the millionth prime."""
MAX_CACHED_LISTS = 1024
"""Permuting a vocabulary of 50,000 takes about half a millisecond, its list as much memory as the
vocabulary has tokens, in bytes."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """How strong the mark is."""

    gamma: float = 0.5
    """The green share of the vocabulary."""
    delta: float = 2.0
    """Added to the logits of green tokens."""

    def add_(
        self, logits: Tensor, rows: npt.NDArray[np.int64], previous_ids: Sequence[int]
    ) -> None:
        """Mark, in place, some rows of logits [_, V]; previous_ids are the tokens before them."""
        vocab_size = logits.shape[1]
        lists = [green_list(token_id, vocab_size, self.gamma) for token_id in previous_ids]
        is_green = torch.from_numpy(np.stack(lists)).to(logits.device)
        index = torch.from_numpy(rows).to(logits.device)
        logits[index] = logits[index] + self.delta * is_green


@lru_cache(MAX_CACHED_LISTS)
def green_list(previous_id: int, vocab_size: int, gamma: float) -> npt.NDArray[np.bool_]:
    """[V], whether each token is green after `previous_id`."""
    generator = torch.Generator().manual_seed(HASH_KEY * previous_id % (2**64 - 1))
    permutation = torch.randperm(vocab_size, generator=generator).numpy()
    is_green = np.zeros(vocab_size, np.bool_)
    is_green[permutation[: int(vocab_size * gamma)]] = True
    return is_green
