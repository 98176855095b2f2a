"""TGI's `x-*` response headers: what a request cost."""

from collections.abc import Sequence

from headrace.text.generation import Finish


def describe_device(device: str) -> str:
    """`cuda:0 NVIDIA H100` becomes `1-nvidia-h100`; a device without a name is `cpu+optimized`."""
    kind, _, name = device.partition(" ")
    return "1-" + name.lower().replace(" ", "-") if name else f"{kind}+optimized"


def stream_headers(compute_type: str, num_characters: int) -> dict[str, str]:
    """What is known before generation."""
    return {"x-compute-type": compute_type, "x-compute-characters": str(num_characters)}


def total_time(finish: Finish) -> float:
    """Seconds from the request's arrival in the front end to its last token."""
    timings = finish.timings
    in_engine = timings.queue_time + timings.prefill_time + timings.decode_time
    return finish.validation_time + in_engine


def generation_headers(
    compute_type: str,
    num_characters: int,
    finishes: Sequence[Finish],
    num_prompt_tokens: int,
) -> dict[str, str]:
    """The whole set; times are whole milliseconds, except `x-compute-time`.

    Tokens are sums over the sequences, times those of the sequence that took longest.
    """
    finish = max(finishes, key=total_time)
    inference_time = finish.timings.prefill_time + finish.timings.decode_time
    seconds = {
        "x-total-time": total_time(finish),
        "x-validation-time": finish.validation_time,
        "x-queue-time": finish.timings.queue_time,
        "x-inference-time": inference_time,
        "x-time-per-token": inference_time / max(1, finish.num_tokens),
    }
    num_generated_tokens = sum(finish.num_tokens for finish in finishes)
    return {
        **stream_headers(compute_type, num_characters),
        "x-compute-time": str(total_time(finish)),
        **{name: str(int(1000 * value)) for name, value in seconds.items()},
        "x-prompt-tokens": str(num_prompt_tokens),
        "x-generated-tokens": str(num_generated_tokens),
    }
