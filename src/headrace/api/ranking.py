"""Which of several generations is the best."""

from collections.abc import Sequence

from headrace.text.generation import Generation


def mean_logprob(generation: Generation) -> float:
    """Mean log-probability of the generated tokens."""
    logprobs = [token.logprob for token in generation.tokens if token.logprob is not None]
    return sum(logprobs) / max(1, len(logprobs))


def rank(generations: Sequence[Generation]) -> list[Generation]:
    """Best first, by mean log-probability; equal ones keep their order."""
    return sorted(generations, key=mean_logprob, reverse=True)
