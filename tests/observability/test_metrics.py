"""Names and bytes as TGI's dashboards expect them."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from headrace.errors import ValidationError
from headrace.observability.metrics import Metrics
from headrace.observability.steps import count_step
from headrace.types import EngineInfo, EngineStats, StepCounts, Timings

INFO = EngineInfo(
    max_total_tokens=1000, max_batch_prefill_tokens=512, max_num_seqs=8, num_blocks=100,
    block_size=16, vocab_size=10, device="cpu", dtype="float32", kernels="",
)  # fmt: skip
STATS = EngineStats(num_running=2, num_waiting=5, num_free_blocks=75, prefix_cache_queries=10,
                    prefix_cache_hits=4, num_preemptions=3, num_draft_tokens=9,
                    num_accepted_tokens=6, num_forced_tokens=2, num_engine_deaths=2,
                    num_draft_steps=4)  # fmt: skip
TIMINGS = Timings(queue_time=0.25, prefill_time=0.5, decode_time=1.0, num_cached_tokens=3)

TGI_FAMILIES = {
    "tgi_request_count": "counter",
    "tgi_request_success": "counter",
    "tgi_request_failure": "counter",
    "tgi_request_duration": "histogram",
    "tgi_request_validation_duration": "histogram",
    "tgi_request_queue_duration": "histogram",
    "tgi_request_inference_duration": "histogram",
    "tgi_request_mean_time_per_token_duration": "histogram",
    "tgi_request_input_length": "histogram",
    "tgi_request_generated_tokens": "histogram",
    "tgi_request_max_new_tokens": "histogram",
    "tgi_request_skipped_tokens": "summary",
    "tgi_queue_size": "gauge",
    "tgi_batch_current_size": "gauge",
    "tgi_batch_current_max_tokens": "gauge",
    "tgi_batch_next_size": "histogram",
    "tgi_batch_inference_count": "counter",
    "tgi_batch_inference_success": "counter",
    "tgi_batch_inference_failure": "counter",
    "tgi_batch_inference_duration": "histogram",
    "tgi_batch_forward_duration": "histogram",
    "tgi_batch_decode_duration": "histogram",
    "tgi_batch_filter_duration": "histogram",
    "tgi_batch_concat": "counter",
    "tgi_batch_concat_duration": "histogram",
    "tgi_batch_max_total_tokens": "gauge",
}


@pytest.fixture
def steps() -> StepCounts:
    return StepCounts()


@pytest.fixture
def metrics(steps: StepCounts) -> Metrics:
    return Metrics(max_input_tokens=999, max_total_tokens=1000, steps=steps)


def lines(metrics: Metrics) -> list[str]:
    return metrics.render(STATS, INFO).decode().splitlines()


def record(metrics: Metrics, num_generated_tokens: int = 5) -> None:
    metrics.record_finish(
        TIMINGS,
        validation_time=0.125,
        num_prompt_tokens=20,
        num_generated_tokens=num_generated_tokens,
        max_new_tokens=100,
    )


def test_every_tgi_family_with_its_type(metrics: Metrics) -> None:
    types = dict(line.split()[2:] for line in lines(metrics) if line.startswith("# TYPE tgi_"))
    assert types == TGI_FAMILIES


def test_counters_have_no_suffix(metrics: Metrics) -> None:
    for _ in range(3):
        with metrics.request(lambda error: "validation"):
            pass
    with pytest.raises(ValidationError), metrics.request(lambda error: "validation"):
        raise ValidationError("x")
    with pytest.raises(KeyboardInterrupt), metrics.request(lambda error: "validation"):
        raise KeyboardInterrupt
    text = lines(metrics)
    assert "tgi_request_count 5" in text
    assert "tgi_request_success 3" in text
    assert 'tgi_request_failure{err="validation"} 1' in text
    assert 'tgi_request_failure{err="dropped"} 1' in text
    assert not [line for line in text if "_created" in line]
    assert not [line for line in text if line.startswith("tgi_") and "_total " in line]


def test_a_finished_sequence(metrics: Metrics) -> None:
    record(metrics)
    text = lines(metrics)
    for line in [
        "tgi_request_duration_sum 1.875",
        "tgi_request_duration_count 1",
        "tgi_request_validation_duration_sum 0.125",
        "tgi_request_queue_duration_sum 0.25",
        "tgi_request_inference_duration_sum 1.5",
        "tgi_request_mean_time_per_token_duration_sum 0.3",
        "tgi_request_input_length_sum 20",
        "tgi_request_generated_tokens_sum 5",
        "tgi_request_max_new_tokens_sum 100",
        "headrace_time_to_first_token_seconds_sum 0.875",
        "headrace_inter_token_latency_seconds_sum 0.25",
        "headrace_prompt_tokens_total 20",
        "headrace_cached_prompt_tokens_total 3",
        "headrace_completion_tokens_total 5",
    ]:
        assert line in text


def test_one_token_has_no_inter_token_latency(metrics: Metrics) -> None:
    record(metrics, num_generated_tokens=1)
    assert "headrace_inter_token_latency_seconds_count 0" in lines(metrics)


def test_buckets(metrics: Metrics) -> None:
    record(metrics)
    text = lines(metrics)
    durations = [line for line in text if line.startswith("tgi_request_duration_bucket")]
    assert len(durations) == 36
    assert durations[-1] == 'tgi_request_duration_bucket{le="+Inf"} 1'
    bounds = [float(line.split('"')[1]) for line in durations[:-1]]
    assert bounds == pytest.approx([0.0001 * 1.5**k for k in range(1, 36)])
    # 1.875 s lies above 0.0001 * 1.5^24 = 1.68 and below 0.0001 * 1.5^25 = 2.53.
    assert [line[-1] for line in durations[:-1]] == ["0"] * 24 + ["1"] * 11
    lengths = [line for line in text if line.startswith("tgi_request_generated_tokens_bucket")]
    assert lengths[0] == 'tgi_request_generated_tokens_bucket{le="10"} 1'
    assert lengths[99] == 'tgi_request_generated_tokens_bucket{le="1000"} 1'
    sizes = [line for line in text if line.startswith("tgi_batch_next_size_bucket")]
    assert len(sizes) == 1025
    assert sizes[1023] == 'tgi_batch_next_size_bucket{le="1024"} 0'


def test_gauges_come_from_the_snapshot(metrics: Metrics) -> None:
    text = lines(metrics)
    for line in [
        "tgi_queue_size 5",
        "tgi_batch_current_size 2",
        "tgi_batch_current_max_tokens 400",
        "tgi_batch_max_total_tokens 1600",
        "headrace_requests_running 2",
        "headrace_requests_waiting 5",
        "headrace_kv_cache_usage_ratio 0.25",
        "headrace_prefix_cache_hit_ratio 0.4",
        "headrace_preemptions 3",
        "headrace_engine_deaths 2",
    ]:
        assert line in text


def test_steps(metrics: Metrics, steps: StepCounts) -> None:
    mixed = EngineStats(num_running=3, num_prefill_tokens=10, num_decode_tokens=2,
                        step_duration=0.5, execute_duration=0.25,
                        schedule_duration=0.125, update_duration=0.0625, num_failed=1)  # fmt: skip
    decode = EngineStats(num_running=2, num_decode_tokens=2, step_duration=0.125)
    for stats in (mixed, decode, decode):
        count_step(steps, stats)
    text = lines(metrics)
    for line in [
        'tgi_batch_inference_failure{method="prefill"} 1',
        'tgi_batch_filter_duration_sum{method="prefill"} 0.0625',
        'tgi_batch_filter_duration_count{method="decode"} 2',
        'tgi_batch_concat_duration_sum{method="decode"} 0.125',
        'tgi_batch_concat_duration_count{method="decode"} 1',
        'tgi_batch_inference_count{method="prefill"} 1',
        'tgi_batch_inference_success{method="decode"} 2',
        'tgi_batch_inference_duration_sum{method="prefill"} 0.5',
        'tgi_batch_forward_duration_sum{method="prefill"} 0.25',
        'tgi_batch_decode_duration_sum{method="prefill"} 0.25',
        'tgi_batch_concat{reason="chunking"} 1',
        "tgi_batch_next_size_sum 7",
    ]:
        assert line in text


def test_speculation(metrics: Metrics, steps: StepCounts) -> None:
    count_step(steps, EngineStats(num_sampled_rows=3, num_skipped_tokens=7))
    count_step(steps, EngineStats(num_sampled_rows=1))
    text = lines(metrics)
    for line in [
        "tgi_request_skipped_tokens_count 4",
        "tgi_request_skipped_tokens_sum 7",
        "headrace_draft_tokens 9",
        "headrace_accepted_draft_tokens 6",
        "headrace_draft_steps 4",
        "headrace_forced_tokens 2",
    ]:
        assert line in text


def test_prometheus_reads_it(metrics: Metrics) -> None:
    record(metrics)
    families = list(text_string_to_metric_families("\n".join(lines(metrics)) + "\n"))
    assert {family.name for family in families} >= set(TGI_FAMILIES)
