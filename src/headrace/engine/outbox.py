"""What steps report, on its way to the client: reports of short steps travel together.

Knows time and which events cannot wait; knows nothing of what comes of them.
"""

from typing import Final

from headrace.engine.channel import Channel
from headrace.types import Command, StepEvents, TokenEvent

HOLD_SECONDS: Final = 0.033
"""What a token may wait for those behind it: thirty updates a second, more than one can read.

Each message wakes the front end and whoever reads its streams. While a step reads the model's
weights through the CPU's caches, their code is cold each time and takes longer to come back than to
run, on cores that the kernels need.
"""


class Outbox:
    """Sends at once what begins or ends a request, and the rest while the next step still lets it
    leave in time."""

    def __init__(self, channel: Channel[Command], hold_seconds: float = HOLD_SECONDS) -> None:
        self._channel = channel
        self._hold_seconds = hold_seconds
        self._deadline: float | None = None
        """Of the oldest report that is held; None when there is none."""
        self._num_tokens = 0

    def begin_step(self, num_tokens: int) -> None:
        """Hold nothing back while there is no step, or one that may take longer than the last."""
        if not 0 < num_tokens <= self._num_tokens:
            self.flush()
        self._num_tokens = num_tokens

    def put(self, report: StepEvents, now: float) -> None:
        """Send a report with those before it, now or with a later one. `now` is when its step
        ended, in seconds."""
        self._channel.put(report)
        if self._deadline is None:
            self._deadline = now + self._hold_seconds
        next_end = now + report.stats.step_duration
        if next_end > self._deadline or any(map(_is_urgent, report.events)):
            self.flush()

    def flush(self) -> None:
        """Send what is held."""
        self._channel.flush()
        self._deadline = None


def _is_urgent(event: TokenEvent) -> bool:
    """The first and the last event of a request have timings, unless it failed."""
    return event.timings is not None or event.error is not None
