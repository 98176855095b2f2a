"""Everything that /metrics shows: TGI's names, and what TGI lacked under `headrace_`.

`record_finish` is the one place where a finished sequence is counted; of engine steps see `steps`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace.errors import HeadraceError
from headrace.observability.exposition import render
from headrace.observability.steps import StepCollector, duration_buckets
from headrace.types import EngineInfo, EngineStats, StepCounts, Timings


def length_buckets(most: int) -> list[float]:
    """100 equal steps up to `most` tokens."""
    return [most / 100 * step for step in range(1, 101)]


class Metrics:
    """The process's instruments. One instance per server."""

    def __init__(
        self, max_input_tokens: int, max_total_tokens: int, steps: StepCounts | None = None
    ) -> None:
        """`steps`: counts that grow while the engines run."""
        self._registry = CollectorRegistry()
        self._registry.register(StepCollector(StepCounts() if steps is None else steps))
        self._make_request_instruments(max_input_tokens, max_total_tokens)
        self._make_batch_instruments()
        self._make_engine_instruments()

    @contextmanager
    def request(self, label_of: Callable[[HeadraceError], str]) -> Iterator[None]:
        """Count a request, and whether it succeeded; `label_of` names the kind of a failure."""
        self._count.inc()
        try:
            yield
        except HeadraceError as error:
            self._failure.labels(label_of(error)).inc()
            raise
        except BaseException:
            # Cancelled because the client went away, or a defect: nobody got an answer.
            self._failure.labels("dropped").inc()
            raise
        self._success.inc()

    def record_finish(
        self,
        timings: Timings,
        *,
        validation_time: float,
        num_prompt_tokens: int,
        num_generated_tokens: int,
        max_new_tokens: int,
    ) -> None:
        """Count one finished sequence. Times in seconds."""
        waited = validation_time + timings.queue_time
        inference_time = timings.prefill_time + timings.decode_time
        self._duration.observe(waited + inference_time)
        self._validation_duration.observe(validation_time)
        self._queue_duration.observe(timings.queue_time)
        self._inference_duration.observe(inference_time)
        self._time_per_token.observe(inference_time / max(1, num_generated_tokens))
        self._input_length.observe(num_prompt_tokens)
        self._generated_tokens.observe(num_generated_tokens)
        self._max_new_tokens.observe(max_new_tokens)
        self._time_to_first_token.observe(waited + timings.prefill_time)
        if num_generated_tokens > 1:
            self._inter_token_latency.observe(timings.decode_time / (num_generated_tokens - 1))
        self._prompt_tokens.inc(num_prompt_tokens)
        self._cached_prompt_tokens.inc(timings.num_cached_tokens)
        self._completion_tokens.inc(num_generated_tokens)

    def render(self, stats: EngineStats, info: EngineInfo) -> bytes:
        """Prometheus text, with the gauges set from a snapshot."""
        used_blocks = info.num_blocks - stats.num_free_blocks
        self._queue_size.set(stats.num_waiting)
        self._batch_size.set(stats.num_running)
        self._batch_tokens.set(used_blocks * info.block_size)
        self._batch_max_total_tokens.set(info.num_blocks * info.block_size)
        self._running.set(stats.num_running)
        self._waiting.set(stats.num_waiting)
        self._cache_usage.set(used_blocks / info.num_blocks)
        queries = stats.prefix_cache_queries
        self._hit_rate.set(stats.prefix_cache_hits / queries if queries else 0.0)
        self._preemptions.set(stats.num_preemptions)
        self._draft_tokens.set(stats.num_draft_tokens)
        self._accepted_tokens.set(stats.num_accepted_tokens)
        self._draft_steps.set(stats.num_draft_steps)
        self._forced_tokens.set(stats.num_forced_tokens)
        self._engine_deaths.set(stats.num_engine_deaths)
        return render(self._registry.collect())

    def _counter(self, name: str, help: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, help, labels, registry=self._registry)

    def _gauge(self, name: str, help: str) -> Gauge:
        return Gauge(name, help, registry=self._registry)

    def _histogram(
        self,
        name: str,
        help: str,
        buckets: Sequence[float] | None = None,
        labels: Sequence[str] = (),
    ) -> Histogram:
        buckets = duration_buckets() if buckets is None else buckets
        return Histogram(name, help, labels, buckets=buckets, registry=self._registry)

    def _make_request_instruments(self, max_input_tokens: int, max_total_tokens: int) -> None:
        self._count = self._counter("tgi_request_count", "Requests")
        self._success = self._counter("tgi_request_success", "Requests answered")
        self._failure = self._counter("tgi_request_failure", "Requests failed", ["err"])
        self._duration = self._histogram("tgi_request_duration", "Seconds, end to end")
        self._validation_duration = self._histogram(
            "tgi_request_validation_duration", "Seconds of tokenization and checks"
        )
        self._queue_duration = self._histogram("tgi_request_queue_duration", "Seconds in the queue")
        self._inference_duration = self._histogram(
            "tgi_request_inference_duration", "Seconds in the engine after the queue"
        )
        self._time_per_token = self._histogram(
            "tgi_request_mean_time_per_token_duration", "Seconds of inference per new token"
        )
        self._input_length = self._histogram(
            "tgi_request_input_length", "Prompt tokens", length_buckets(max_input_tokens)
        )
        self._generated_tokens = self._histogram(
            "tgi_request_generated_tokens", "New tokens", length_buckets(max_total_tokens)
        )
        self._max_new_tokens = self._histogram(
            "tgi_request_max_new_tokens", "New tokens at most", length_buckets(max_total_tokens)
        )

    def _make_batch_instruments(self) -> None:
        self._queue_size = self._gauge("tgi_queue_size", "Requests waiting")
        self._batch_size = self._gauge("tgi_batch_current_size", "Requests running")
        self._batch_tokens = self._gauge(
            "tgi_batch_current_max_tokens", "Tokens of the KV cache that running requests hold"
        )
        self._batch_max_total_tokens = self._gauge(
            "tgi_batch_max_total_tokens", "Tokens that the KV cache holds"
        )

    def _make_engine_instruments(self) -> None:
        self._time_to_first_token = self._histogram(
            "headrace_time_to_first_token_seconds", "From arrival to the first token"
        )
        self._inter_token_latency = self._histogram(
            "headrace_inter_token_latency_seconds", "Mean time between a sequence's tokens"
        )
        self._prompt_tokens = self._counter("headrace_prompt_tokens", "Prompt tokens")
        self._cached_prompt_tokens = self._counter(
            "headrace_cached_prompt_tokens", "Prompt tokens found in the prefix cache"
        )
        self._completion_tokens = self._counter("headrace_completion_tokens", "New tokens")
        self._running = self._gauge("headrace_requests_running", "Requests running")
        self._waiting = self._gauge("headrace_requests_waiting", "Requests waiting")
        self._cache_usage = self._gauge(
            "headrace_kv_cache_usage_ratio", "Blocks that running requests hold, of all"
        )
        self._hit_rate = self._gauge(
            "headrace_prefix_cache_hit_ratio", "Prompt tokens found in the cache, of all looked up"
        )
        self._engine_deaths = self._gauge(
            "headrace_engine_deaths", "Engine processes that ended by themselves since start"
        )
        self._preemptions = self._gauge("headrace_preemptions", "Preemptions since start")
        self._draft_tokens = self._gauge(
            "headrace_draft_tokens", "Drafted tokens that were verified since start"
        )
        self._accepted_tokens = self._gauge(
            "headrace_accepted_draft_tokens", "Drafted tokens that were right since start"
        )
        self._draft_steps = self._gauge(
            "headrace_draft_steps", "Steps in which drafts of a sequence were verified since start"
        )
        self._forced_tokens = self._gauge(
            "headrace_forced_tokens", "Tokens that grammars forced since start"
        )
