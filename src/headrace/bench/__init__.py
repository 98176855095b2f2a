"""`headrace bench`: load for any OpenAI-compatible URL, measured and verified. Talks HTTP only."""

from headrace.bench.run import main

__all__ = ["main"]
