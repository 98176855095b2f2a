"""What is known about one request after it ended. Times are seconds of `time.perf_counter`."""

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Record:
    """Filled by the client while the answer streams in; never judged there."""

    prompt_number: int
    """Requests with the same number had the same prompt."""
    started: float
    """Before the connection was opened or taken from the pool."""
    ended: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    """When each chunk with text came."""
    pieces: list[str] = field(default_factory=list)
    """The text of those chunks."""
    finish_reasons: list[str] = field(default_factory=list)
    num_done: int = 0
    """`[DONE]` lines."""
    prompt_tokens: int | None = None
    """As usage says; None without usage, like the next two."""
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    num_listed_tokens: int = 0
    """Tokens for which log-probabilities came."""
    faults: list[str] = field(default_factory=list)
    """Chunks that must not be: unreadable ones, text after the end."""
    error: str | None = None
    """Why the request failed."""
    cancelled: bool = False
    """This client hung up, as planned."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def is_complete(self) -> bool:
        return self.error is None and not self.cancelled

    @property
    def num_output_tokens(self) -> int:
        """By usage; by chunks where there is none (a cancelled request has none)."""
        if self.completion_tokens is None:
            return len(self.arrivals)
        return self.completion_tokens
