"""What stops a benchmark as a whole; what befalls one request is in its `Record`."""


class BenchError(Exception):
    """The benchmark cannot run; the message says why and what to do."""
