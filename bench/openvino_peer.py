"""OpenVINO GenAI on a GGUF file, in process: runs under a Python that has `openvino_genai`.

One line of JSON per measurement on standard output, so that `side_by_side.py` can alternate it
with the other engines: reads "STREAMS PROMPT_TOKENS NEW_TOKENS" lines, answers each with
{"output_throughput": …, "prefill_throughput": …, "seconds": …}.
"""

import json
import sys
import time

import openvino_genai

WORDS = ["river", "stone", "light", "wheel", "water", "mill", "grain", "bread", "night", "winter"]


def prompt(length: int, salt: int) -> str:
    """About `length` tokens of plain words, different for each salt so that no prefix is cached."""
    return " ".join([f"{salt}"] + [WORDS[(i * 7 + salt) % len(WORDS)] for i in range(length - 3)])


def main() -> None:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs = 64
    scheduler.max_num_batched_tokens = 512
    scheduler.cache_size = 2
    scheduler.enable_prefix_caching = True
    scheduler.dynamic_split_fuse = True
    started = time.monotonic()
    pipeline = openvino_genai.LLMPipeline(sys.argv[1], "CPU", scheduler_config=scheduler)
    print(json.dumps({"ready": time.monotonic() - started}), flush=True)
    salt = 0
    for line in sys.stdin:
        streams, prompt_tokens, new_tokens = map(int, line.split())
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        config.do_sample = False
        config.apply_chat_template = False
        prompts = [prompt(prompt_tokens, salt := salt + 1) for _ in range(streams)]
        begin = time.perf_counter()
        result = pipeline.generate(prompts, config)
        seconds = time.perf_counter() - begin
        assert len(result.texts) == streams
        report = {
            "seconds": seconds,
            "output_throughput": streams * new_tokens / seconds,
            "prefill_throughput": streams * prompt_tokens / seconds,
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
