"""Tokens and log-probabilities out of rows of logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.kernels.ops.op import Abilities, Op
from headrace.kernels.tensors import DRAW, Draws, check, check_multiple


@dataclass(frozen=True, slots=True)
class Argmax(Op):
    """out[r] = the first index of the largest of x[r]. x [R, V], out [R] int32."""

    x: Tensor
    out: Tensor

    def check(self, kernels: Abilities) -> int:
        check(self.x, "x", torch.float32, None, None)
        num_rows, columns = self.x.shape
        check_multiple("x: columns", columns, 1)
        check(self.out, "out", torch.int32, num_rows)
        return num_rows


@dataclass(frozen=True, slots=True)
class Allow(Op):
    """logits[index[m]][t] = -infinity where bit t % 32 of words[m][t // 32] is not set.

    logits [R, V]; index [M] int64, no row twice; words [M, W] int32, W >= V / 32.
    """

    logits: Tensor
    index: Tensor
    words: Tensor

    def check(self, kernels: Abilities) -> int:
        anywhere, num_rows = kernels.samples_anywhere, len(self.index)
        check(self.logits, "logits", torch.float32, None, None, any_device=anywhere)
        check(self.index, "index", torch.int64, None, any_device=anywhere)
        check(self.words, "words", torch.int32, num_rows, None, any_device=anywhere)
        if self.words.shape[1] * 32 < self.logits.shape[1]:
            raise ValueError("words: fewer bits than there are logits")
        return num_rows


@dataclass(frozen=True, slots=True)
class Sample(Op):
    """token_ids[r] = a token of logits[r], drawn as draws[r] says; largest[r] = max(logits[r]).

    logits [R, V], draws [R] of DRAW, token_ids [R] int64, largest [R]. Where largest is not
    finite there was nothing to choose from; it is NaN if any of the row's logits is.
    A draw takes the largest exp(score) / e, where e is an exponential random number that the
    row's seed, its position and the candidate determine. All implementations use the same
    numbers, so they choose alike but for quotients that differ by rounding only.
    """

    logits: Tensor
    draws: Draws
    token_ids: Tensor
    largest: Tensor

    def check(self, kernels: Abilities) -> int:
        anywhere, draws = kernels.samples_anywhere, self.draws
        check(self.logits, "logits", torch.float32, None, None, any_device=anywhere)
        num_rows, columns = self.logits.shape
        check_multiple("logits: columns", columns, 1)
        if draws.dtype != DRAW or draws.shape != (num_rows,) or not draws.flags.c_contiguous:
            raise ValueError(f"draws: expected {num_rows} contiguous records of DRAW")
        check(self.token_ids, "token_ids", torch.int64, num_rows, any_device=anywhere)
        check(self.largest, "largest", torch.float32, num_rows, any_device=anywhere)
        return num_rows


@dataclass(frozen=True, slots=True)
class TopLogprobs(Op):
    """The K likeliest tokens of each logits[index[l]], best first, lower ids before equals.

    logits [R, V]; index [L] int64; token_ids [L, K] int64 and logprobs [L, K], K <= V;
    normalizers [L]: a token's log-probability is its logit less its row's normalizer.
    """

    logits: Tensor
    index: Tensor
    token_ids: Tensor
    logprobs: Tensor
    normalizers: Tensor

    def check(self, kernels: Abilities) -> int:
        anywhere, num_rows = kernels.samples_anywhere, len(self.index)
        check(self.logits, "logits", torch.float32, None, None, any_device=anywhere)
        check(self.index, "index", torch.int64, None, any_device=anywhere)
        check(self.token_ids, "token_ids", torch.int64, num_rows, None, any_device=anywhere)
        leading = self.token_ids.shape
        check(self.logprobs, "logprobs", torch.float32, *leading, any_device=anywhere)
        check(self.normalizers, "normalizers", torch.float32, num_rows, any_device=anywhere)
        if leading[1] > self.logits.shape[1]:
            raise ValueError("token_ids: more than there are logits")
        return num_rows
