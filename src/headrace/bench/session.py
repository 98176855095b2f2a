"""Runs levels of load against one server: requests out, verified summaries back."""

import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from headrace.bench.client import Client
from headrace.bench.errors import BenchError
from headrace.bench.load import Extent, closed_loop, open_loop
from headrace.bench.measure import Summary, summarize
from headrace.bench.options import Options
from headrace.bench.progress import show_progress
from headrace.bench.record import Record
from headrace.bench.verify import find_violations
from headrace.bench.workload import Workload


@dataclass(frozen=True, slots=True)
class Level:
    """One step of the load: `streams` of a closed loop or `rate` of an open one."""

    streams: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        if self.streams is None:
            return f"{self.rate:g} requests/s"
        return f"{self.streams} stream{'s' if self.streams > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Run:
    """A summary with where it comes from."""

    url: str
    model: str
    level: Level
    summary: Summary


def levels(options: Options) -> Iterator[Level]:
    yield from (Level(streams=streams) for streams in options.streams)
    yield from (Level(rate=rate) for rate in options.rates)


def extent(options: Options, level: Level) -> Extent:
    """How long a level lasts; 4 requests per stream and at least 16 when nothing is said."""
    requests = options.requests
    if requests is None and options.duration is None:
        requests = max(16, 4 * (level.streams or 1))
    return Extent(requests, options.duration)


class Session:
    """One server under load."""

    def __init__(self, client: Client, workload: Workload) -> None:
        self._client = client
        self._workload = workload
        self._options = workload.options

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, options: Options, url: str, model: str | None) -> "AsyncIterator[Session]":
        """Find out the model's name, warm up, and close all connections at the end.

        Raises `BenchError` when the server cannot be reached or fails a warm-up request.
        """
        client = Client(
            url,
            api_key=options.api_key,
            new_connection=options.new_connection,
            timeout=options.timeout,
        )
        try:
            workload = Workload.create(options, model or await client.first_model())
            session = cls(client, workload)
            await session._warm_up()
            yield session
        finally:
            await client.close()

    async def run(self, level: Level, first: int) -> Run:
        """Requests from number `first` on, at this level."""
        records: list[Record] = []

        async def send(number: int) -> None:
            await self._send(number, records)

        span = extent(self._options, level)
        async with show_progress(f"{self._client.url}  {level}", records, span):
            if level.streams is not None:
                await closed_loop(send, level.streams, span.numbers(first))
            elif level.rate is not None:
                rng = random.Random(f"{self._options.seed} arrivals {first}")
                await open_loop(send, level.rate, span.numbers(first), rng)
        violations = find_violations(records, self._options)
        summary = summarize(records, violations, streams=level.streams, rate=level.rate)
        return Run(self._client.url, self._workload.model, level, summary)

    async def _send(self, number: int, records: list[Record]) -> None:
        request = self._workload.request(number)
        record = Record(prompt_number=request.prompt_number, started=time.perf_counter())
        records.append(record)
        await self._client.send(request, record)

    async def _warm_up(self) -> None:
        # Negative numbers: prompts that no measured request repeats.
        numbers = iter(range(-2 * self._options.warmup, 0, 2))
        records: list[Record] = []
        await closed_loop(lambda number: self._send(number, records), 2, numbers)
        for record in records:
            if record.error:
                raise BenchError(f"{self._client.url}: a warm-up request failed: {record.error}")
