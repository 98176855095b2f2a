"""top_k, top_p, typical_p and min_p over the leading candidates of each row, vectorised over rows.

The semantics are those of transformers' warpers applied in this order, each seeing the distribution
that the one before left, renormalised; ties go to the better rank, which is the lower token id.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Truncation:
    """How R rows cut their distributions; [R, 1] each, switched off by 0, 1, 1 and 0."""

    top_k: Tensor
    top_p: Tensor
    typical_p: Tensor
    min_p: Tensor

    def select(self, rows: Tensor) -> "Truncation":
        return Truncation(
            self.top_k[rows], self.top_p[rows], self.typical_p[rows], self.min_p[rows]
        )

    @property
    def is_prefix(self) -> Tensor:
        """[R, 1] bool: top_k or top_p keep a prefix of the candidates."""
        return (self.top_k > 0) | (self.top_p < 1)


def truncated_weights(
    scores: Tensor, probabilities: Tensor, truncation: Truncation, entropies: Tensor
) -> tuple[Tensor, Tensor]:
    """Cut R rows whose K leading candidates are given best first, the best score being 0.

    scores and probabilities [R, K], the latter over the whole vocabulary; entropies [R, 1] of the
    whole distribution, read where typical_p comes without top_k and top_p. Returns weights
    exp(scores) [R, K], 0 where removed, and [R] whether no candidate beyond the K could be kept.
    """
    kept, done = prefix(probabilities, truncation)
    typical = (truncation.typical_p < 1)[:, 0].nonzero()[:, 0]
    if len(typical):
        kept[typical], done_typical = typical_subset(
            scores[typical],
            probabilities[typical],
            kept[typical],
            truncation.select(typical),
            entropies[typical],
        )
        done[typical] |= done_typical
    return cut_below(scores.exp().masked_fill(~kept, 0), truncation.min_p), done[:, 0]


def prefix(probabilities: Tensor, truncation: Truncation) -> tuple[Tensor, Tensor]:
    """top_k, then the shortest prefix with top_p of its mass; kept [R, K], done [R, 1]."""
    num_candidates = probabilities.shape[1]
    has_top_k, has_top_p = truncation.top_k > 0, truncation.top_p < 1
    rank = torch.arange(num_candidates, device=probabilities.device)
    kept = (rank < truncation.top_k) | ~has_top_k
    cumulative = probabilities.masked_fill(~kept, 0).cumsum(dim=1)
    mass = truncation.top_p * torch.where(has_top_k, cumulative[:, -1:], 1.0)
    kept &= (before(cumulative) < mass) | ~has_top_p
    done_by_mass = has_top_p & ~has_top_k & (cumulative[:, -1:] >= mass)
    return kept, done_by_mass | has_top_k & (truncation.top_k <= num_candidates)


def typical_subset(
    scores: Tensor, probabilities: Tensor, kept: Tensor, truncation: Truncation, entropies: Tensor
) -> tuple[Tensor, Tensor]:
    """Of what is kept, the smallest set with mass typical_p whose surprise is nearest the entropy.

    Locally typical sampling (Meister et al. 2022). Returns kept [R, K] and done [R, 1]: candidates
    beyond the K surprise at least as much as the last one, so they are farther from the entropy
    than a set that ends before that distance.
    """
    is_prefix = truncation.is_prefix
    kept_mass = row_sum(probabilities.masked_fill(~kept, 0))
    kept_mass = torch.where(is_prefix, kept_mass, 1.0)
    surprise = kept_mass.log() - probabilities[:, :1].log() - scores
    probabilities = (probabilities / kept_mass).masked_fill(~kept, 0)
    entropies = torch.where(is_prefix, entropy(probabilities, surprise), entropies)
    distance, order = (
        (surprise - entropies).abs().masked_fill(~kept, torch.inf).sort(dim=1, stable=True)
    )
    cumulative = probabilities.gather(1, order).cumsum(dim=1)
    nearest = before(cumulative) < truncation.typical_p
    farthest = distance.masked_fill(~nearest, 0).amax(dim=1, keepdim=True)
    done = ~is_prefix & (farthest < surprise[:, -1:] - entropies)
    return torch.zeros_like(kept).scatter_(1, order, nearest) & kept, done


def cut_below(weights: Tensor, min_p: Tensor) -> Tensor:
    """Zero, in weights [R, K], what is under min_p [R, 1] times the row's largest."""
    return weights.masked_fill(weights < min_p * weights.amax(dim=1, keepdim=True), 0)


def entropy(probabilities: Tensor, surprise: Tensor) -> Tensor:
    """[R, 1] in nats, of [R, K] each; entries of probability 0 do not count."""
    return row_sum((probabilities * surprise).masked_fill(probabilities == 0, 0))


def row_sum(values: Tensor) -> Tensor:
    """[R, 1]. torch.sum's order of additions depends on R; a cumulative sum's does not."""
    return values.cumsum(dim=1)[:, -1:]


def before(cumulative: Tensor) -> Tensor:
    """The exclusive cumulative sum of an inclusive one, [R, K]."""
    return torch.nn.functional.pad(cumulative[:, :-1], (1, 0))
